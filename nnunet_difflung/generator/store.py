"""A trained generator on disk: safetensors and one JSON that says what it was trained on.

Diffusion models have diffusers' ``save_pretrained`` form; a GAN's generator is rebuilt from the JSON's configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from nnunet_difflung.config import GeneratorConfig
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.card import CARD, CARD_FORMAT, read_card
from nnunet_difflung.generator.diffusion import forward_process
from nnunet_difflung.generator.gan import build_generator, require_gan
from nnunet_difflung.methods import METHODS
from nnunet_difflung.runtime.device import for_reverse_steps, ready_for
from nnunet_difflung.runtime.environment import versions
from nnunet_difflung.runtime.files import replacing, sha256, write_json

_DIFFUSION_WEIGHTS, _GAN_WEIGHTS = "unet/diffusion_pytorch_model.safetensors", "gan/generator.safetensors"


@dataclass(frozen=True)
class Generator:
    """Averaged weights, ready to paint.

    Attributes:
        network: in evaluation mode; diffusers' UNet2DModel, or of a GAN as ``gan.build_generator`` describes it.
        config: with the windows and patch size that were resolved from the fold's training cases.
        conditions: names of the condition channels.
        training_cases: ids of all cases that the weights have seen.
        hash: SHA-256 of the weights' file.
        folder: where it lies.
        ready: precision → the network as reverse steps call it, made when it is first asked for.
    """

    network: torch.nn.Module
    config: GeneratorConfig
    conditions: tuple[str, ...]
    training_cases: tuple[str, ...]
    hash: str
    folder: Path
    ready: dict[str, Callable] = field(default_factory=dict, repr=False, compare=False)

    def for_reverse_steps(self, precision: str, device: torch.device) -> Callable:
        """The network of a diffusion model as painting calls it, in ``fp32`` or ``bf16``."""
        if precision not in self.ready:
            self.ready[precision] = for_reverse_steps(self.network, precision, device)
        return self.ready[precision]


def is_finished(folder: Path) -> bool:
    """Whether a generator's training has ended."""
    return (folder / CARD).is_file() and bool(read_card(folder).get("finished"))


def config_from_json(content: dict) -> GeneratorConfig:
    """Inverse of writing a ``GeneratorConfig`` as JSON."""
    windows = tuple(tuple(window) for window in content["windows"])
    return GeneratorConfig(**{**content, "channels": tuple(content["channels"]), "windows": windows})


def write_card(folder: Path, config: GeneratorConfig, content: dict) -> None:
    """Writes ``generator.json``: configuration, data and versions."""
    write_json(folder / CARD, {"format": CARD_FORMAT, "config": asdict(config), **content, "versions": versions()})


def _is_gan(config: GeneratorConfig) -> bool:
    return METHODS[config.method].family == "gan"


def _weights(folder: Path, config: GeneratorConfig) -> Path:
    return folder / (_GAN_WEIGHTS if _is_gan(config) else _DIFFUSION_WEIGHTS)


def save_generator(folder: Path, network: torch.nn.Module, card: dict, config: GeneratorConfig) -> None:
    """Saves the averaged weights and marks the generator as finished."""
    weights = _weights(folder, config)
    if _is_gan(config):
        with replacing(weights) as temporary:
            save_file({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}, temporary)
    else:
        network.save_pretrained(folder / "unet")
        forward_process(config).save_pretrained(folder / "scheduler")
    write_card(folder, config, {**card, "finished": True, "weights_sha256": sha256(weights)})


def load_generator(folder: Path, device: str | torch.device = "cpu") -> Generator:
    """Loads a finished generator (safetensors and JSON only).

    Raises:
        BadInput: it is not there, not finished, its weights are not those that its JSON names, or it is a GAN's and
            MONAI is not installed.
    """
    if not is_finished(folder):
        raise BadInput(f"{folder} holds no finished generator; run difflung_augment, which trains it")
    card = read_card(folder)
    config = config_from_json(card["config"])
    weights = _weights(folder, config)
    found = sha256(weights)
    if found != card["weights_sha256"]:
        raise BadInput(
            f"{weights} is not the file that {CARD} names (SHA-256 {found[:12]}, expected "
            f"{card['weights_sha256'][:12]}); delete {folder} and train again"
        )
    network = _network(folder, config, card)
    network = ready_for(network.requires_grad_(False).eval(), torch.device(device))
    return Generator(network, config, tuple(card["conditions"]), tuple(card["training_cases"]), found, folder)


def _network(folder: Path, config: GeneratorConfig, card: dict) -> torch.nn.Module:
    if not _is_gan(config):
        from diffusers import UNet2DModel

        return UNet2DModel.from_pretrained(folder / "unet", use_safetensors=True, local_files_only=True)
    require_gan()
    network = build_generator(config, len(card["channels"]), len(card["conditions"]))
    network.load_state_dict(load_file(_weights(folder, config)))
    return network
