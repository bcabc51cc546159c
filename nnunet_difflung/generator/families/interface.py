"""The interface of a family of methods."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tqdm import tqdm

from nnunet_difflung.config import GeneratorConfig, SamplingConfig
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.batches import BatchSource
from nnunet_difflung.generator.checkpoint import TrainingState
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.methods import Method
from nnunet_difflung.runtime.device import parts_that_fit
from nnunet_difflung.runtime.files import replacing
from nnunet_difflung.runtime.tensors import save_tensors

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel

ABLATION_OPTIONS = ("ablation_probability", "annealing", "ablated_classes")
STYLE_OPTIONS = ("level", "styles", "edge")  # for families that use a style

Update = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(image, condition, weight, noise, t) → loss, see ``diffusion.diffusion_loss``; changes the weights."""


@dataclass(frozen=True)
class Canvas:
    """A batch to paint.

    Attributes:
        condition: (n, k, h, w) complete masks; h and w are multiples of the network's size factor.
        noise: (n, c, h, w) standard normal; an image depends on its own noise only, not on the rest of the batch.
        known: (n, c, h, w) real image in [−1, 1] to paint into; None paints everything.
        is_known: (n, 1, h, w) bool, where ``known`` is kept; None if ``known`` is None.
        blend: (n, 1, h, w) in [0, 1], weight of the painted image, for networks that do not see ``known``.
        start: (n, c, h, w) in [−1, 1], ``known`` with real lesion texture pasted, for families that start from it.
        sources: for each image a generator of further noise (``ddpm``, and resamplings).
        style: (n, 2c + 1, h, w) level and spread that the painted region is to have (``style``).
        parts: (n, 1, h, w) int, 0 or the number of a lesion that is to have one level and spread.
        stacks: lengths of the stacks of neighbouring slices in the batch, in the order of z; None: no two are
            neighbours.
        shared: (n,) share of its noise that a slice has in common with its neighbours; None without stacks.
    """

    condition: torch.Tensor
    noise: torch.Tensor
    known: torch.Tensor | None = None
    is_known: torch.Tensor | None = None
    blend: torch.Tensor | None = None
    start: torch.Tensor | None = None
    sources: Sequence[torch.Generator] | None = None
    style: torch.Tensor | None = None
    parts: torch.Tensor | None = None
    stacks: Sequence[int] | None = None
    shared: torch.Tensor | None = None


class Family(ABC):
    """How the methods of one family paint.

    Args:
        method: the method to use.

    Attributes:
        starts_from_paste: painting begins with real lesion texture pasted into the host (``Canvas.start``).
        uses_strength: ``SamplingConfig.strength`` changes what is painted.
        varies: painting the same case again gives another result.
        paints_whole_slices: it can paint a slice from its mask alone.
        uses_style: what is painted gets a level and a spread (``Canvas.style``).
        uses_neighbours: in volumes the network can see the slices beside the one it paints (``Canvas.stacks``).
        reimposes: the known region is noised and re-imposed at every reverse step, which can be repeated
            (``SamplingConfig.resamplings``).
    """

    starts_from_paste = False
    uses_strength = False
    varies = True
    paints_whole_slices = True
    uses_style = False
    uses_neighbours = False
    reimposes = False
    sampler: str | None = None
    """The sampler unless one is given; None: the preset's."""

    margin: int | None = None
    """The margin in pixels unless one is given; None: the preset's."""

    def __init__(self, method: Method) -> None:
        self.method = method

    @property
    def unused_options(self) -> tuple[str, ...]:
        """Options of ``difflung_augment`` that have no effect, by their names in the parsed namespace."""
        return ABLATION_OPTIONS

    def check_options(self, sampling: SamplingConfig, given: Mapping[str, object]) -> None:
        """Refuses options that the method does not support, and a missing package.

        Args:
            sampling: settings of painting according to the options.
            given: option → value on the command line; None if the option was not given.

        Raises:
            BadInput: names the option or the package.
        """
        if sampling.resamplings > 1 and not self.reimposes:
            raise BadInput(
                f"--resamplings repeats steps after which the real surroundings are re-imposed, which --method "
                f"{self.method.name} does not do; leave --resamplings out"
            )
        if sampling.resamplings > 1 and (sampling.paint == "full" or sampling.sampler not in ("ddim", "ddpm")):
            raise BadInput(
                f"--resamplings {sampling.resamplings} needs --paint composite, which has surroundings to fit, and "
                f"--sampler ddim or ddpm, whose steps can be repeated"
            )
        if self.starts_from_paste and sampling.paint == "full":
            raise BadInput(
                f"--method {self.method.name} pastes lesions into real slices and cannot paint whole ones; "
                f"add --paint composite"
            )

    def most_steps(self, config: GeneratorConfig) -> int | None:
        """Maximum number of reverse steps; None if the method has no reverse steps."""
        return None

    @abstractmethod
    def paint(self, generator: Generator, sampling: SamplingConfig, canvas: Canvas) -> torch.Tensor:
        """Paints a batch; called without gradients.

        Args:
            generator: generator of ``method.trained``.
            sampling: sampler, steps, strength, precision.
            canvas: the batch to paint.

        Returns:
            (n, c, h, w) float32 in [−1, 1]; equal to ``canvas.known`` where ``canvas.is_known`` is true.
        """

    @abstractmethod
    def seconds_per_image(
        self,
        config: GeneratorConfig,
        sampling: SamplingConfig,
        image_channels: int,
        condition_channels: int,
        edge: int,
        device: str,
    ) -> tuple[float, float]:
        """Estimated seconds to train on an image of edge × edge pixels, and to paint one, on this device."""


class TrainedFamily(Family):
    """A family whose methods train a generator."""

    source: type[BatchSource] = BatchSource
    """Makes the training batches."""

    loss_axis: Mapping[str, str] = {"ylabel": "generator's loss"}
    """Label and scale of the loss in ``progress.png``."""

    @property
    def unused_settings(self) -> tuple[str, ...]:
        """Fields of ``GeneratorConfig`` without effect; set to their default, so that equal runs look the same."""
        unused = () if self.method.ablation != "none" else ("ablated_classes",)
        return unused if self.uses_neighbours else (*unused, "neighbours", "correlation_mm")

    def require(self) -> None:
        """Checks that all needed packages are installed, before anything is computed.

        Raises:
            BadInput: says what to install.
        """

    def check_options(self, sampling: SamplingConfig, given: Mapping[str, object]) -> None:
        """See ``Family``; also checks that all needed packages are installed."""
        super().check_options(sampling, given)
        self.require()

    @abstractmethod
    def build(self, config: GeneratorConfig, image_channels: int, condition_channels: int) -> torch.nn.Module:
        """The network that paints, with new weights."""

    def new_state(
        self, config: GeneratorConfig, image_channels: int, condition_channels: int, device: torch.device
    ) -> TrainingState:
        """Networks with their initial weights, which depend on the seed only, and optimizers."""
        torch.manual_seed(config.seed)
        return self.initial_state(config, image_channels, condition_channels, device)

    @abstractmethod
    def initial_state(
        self, config: GeneratorConfig, image_channels: int, condition_channels: int, device: torch.device
    ) -> TrainingState:
        """See ``new_state``, which has set torch's seed."""

    @abstractmethod
    def make_update(
        self, state: TrainingState, config: GeneratorConfig, accelerator: Accelerator, steps: int
    ) -> Update:
        """Prepares the networks and optimizers for the device and processes; returns the function of a training step.

        ``steps`` is the length of the whole training: only in long trainings compiling pays off.
        """

    def weights(self, folder: Path) -> Path:
        """The file of the weights in a generator's folder."""
        return folder / self.method.family / "generator.safetensors"

    def save(self, folder: Path, network: torch.nn.Module, config: GeneratorConfig) -> None:
        """Writes the weights, and files that belong to them, into a generator's folder."""
        with replacing(self.weights(folder)) as temporary:
            save_tensors(network.state_dict(), temporary)

    def load(
        self, folder: Path, config: GeneratorConfig, image_channels: int, condition_channels: int
    ) -> torch.nn.Module:
        """The network that ``save`` wrote, on the CPU.

        Raises:
            BadInput: a package is missing.
        """
        self.require()
        network = self.build(config, image_channels, condition_channels)
        network.load_state_dict(load_file(self.weights(folder)))
        return network


def fitting_parts(accelerator: Accelerator, batch: int, trial: Callable[[int], None]) -> int:
    """See ``parts_that_fit``; the largest number that any process needs.

    The trial is this process's alone: other processes may try other numbers of images.
    """

    def largest(parts: int) -> int:
        return int(accelerator.gather(torch.tensor([parts], device=accelerator.device)).max())

    return parts_that_fit(batch, trial, tqdm.write if accelerator.is_main_process else lambda _: None, largest)


def exchanging(network: Callable, exchanges: bool) -> AbstractContextManager:
    """A context in which several processes exchange the gradients of a network, or each keeps its own.

    A backward pass that fails while gradients are exchanged leaves the other processes waiting for them.
    """
    return nullcontext() if exchanges else getattr(network, "no_sync", nullcontext)()


def averaged(network: torch.nn.Module, config: GeneratorConfig) -> EMAModel:
    """The running average of a network's weights, which painting uses."""
    from diffusers.training_utils import EMAModel

    return EMAModel(network.parameters(), decay=config.ema_decay, use_ema_warmup=True, power=0.75, foreach=True)
