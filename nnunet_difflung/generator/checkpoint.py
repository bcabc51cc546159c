"""Checkpoints of a training in safetensors (not pickle), the newest and the one before it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open

from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.files import replacing
from nnunet_difflung.runtime.tensors import save_tensors

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel

NEWEST, PREVIOUS = "checkpoint.safetensors", "checkpoint_previous.safetensors"


@dataclass
class TrainingState:
    """Everything that a training step changes.

    Attributes:
        network: the generator.
        optimizer: optimizer of its weights.
        ema: running average of its weights.
        further_networks: name in a checkpoint → network trained along with it (a GAN's discriminators).
        further_optimizers: name in a checkpoint → optimizer of a further network.
        step: number of finished steps.
        pending_losses: losses of the steps since the last row of the log.
    """

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMAModel
    further_networks: dict[str, torch.nn.Module] = field(default_factory=dict)
    further_optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    step: int = 0
    pending_losses: list[float] = field(default_factory=list)

    def networks(self) -> dict[str, torch.nn.Module]:
        """Name in a checkpoint → network."""
        return {"network": self.network, **self.further_networks}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Name in a checkpoint → optimizer."""
        return {"optimizer": self.optimizer, **self.further_optimizers}


def save_checkpoint(state: TrainingState, folder: Path, settings: str) -> None:
    """Writes the state; the newest checkpoint so far becomes the previous one.

    Args:
        state: state to save.
        folder: folder of the generator.
        settings: hash of what the training depends on; a checkpoint with another hash is never loaded.
    """
    tensors = {f"{name}.{k}": v for name, part in state.networks().items() for k, v in part.state_dict().items()}
    tensors |= {f"ema.{i}": v for i, v in enumerate(state.ema.shadow_params)}
    for name, optimizer in state.optimizers().items():
        for i, entry in optimizer.state_dict()["state"].items():
            tensors |= {f"{name}.{i}.{k}": torch.as_tensor(v) for k, v in entry.items()}
    metadata = {
        "step": str(state.step),
        "settings": settings,
        "ema_step": str(state.ema.optimization_step),
        "losses": ",".join(float(v).hex() for v in state.pending_losses),
    }
    with replacing(folder / NEWEST) as temporary:
        save_tensors(tensors, temporary, metadata)
        if _is_whole(folder / NEWEST):  # a damaged checkpoint must not replace the intact one
            os.replace(folder / NEWEST, folder / PREVIOUS)


def _is_whole(path: Path) -> bool:
    """Whether there is a checkpoint that is not damaged; one that cannot be read now may be intact."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, "pt"):
            return True
    except (SafetensorError, ValueError):
        return False
    except OSError:
        return True


def load_checkpoint(state: TrainingState, folder: Path, settings: str) -> str | None:
    """Restores the newest intact checkpoint with these settings into ``state``.

    Returns:
        A message if a checkpoint is damaged, else None.

    Raises:
        BadInput: a checkpoint cannot be read, such as another user's; it may be intact, so it must not be replaced.
    """
    damaged = None
    for name in (NEWEST, PREVIOUS):
        if not (folder / name).is_file():
            continue
        try:
            tensors, metadata = _read(folder / name)
        except (SafetensorError, ValueError) as error:
            damaged = damaged or f"{folder / name} is damaged ({error})"
            continue
        except OSError as error:
            raise _refusal(folder / name, error) from error
        if metadata.get("settings") == settings:
            _restore(state, tensors, metadata)
            return damaged and f"{damaged}; resuming from the checkpoint before it"
    return damaged and f"{damaged}, and no other checkpoint can be resumed; training begins anew"


def check_readable(folder: Path) -> None:
    """Refuses checkpoints that this user cannot read, before other generators are trained.

    Raises:
        BadInput: names the file and what to do.
    """
    for path in (folder / NEWEST, folder / PREVIOUS):
        try:
            if path.is_file():
                _open(path)
        except OSError as error:
            raise _refusal(path, error) from error


def _refusal(path: Path, error: OSError) -> BadInput:
    return BadInput(
        f"{path} cannot be read ({error.strerror or error}), and a training that begins anew would replace it; make it "
        f"readable for you (chmod, or ask its owner), or delete it"
    )


def _open(path: Path) -> None:
    """Opens a file, since safetensors says of one that may not be opened that it does not exist."""
    with open(path, "rb"):
        pass


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata of a checkpoint."""
    _open(path)
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a mapping)


def laid_out_as(weight: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The value in the memory layout of the weight (channels_last on CUDA), which a fused optimizer needs.

    Values of another shape, such as a number of steps, are returned unchanged.
    """
    return (
        torch.empty_like(weight, device=value.device, dtype=value.dtype).copy_(value)
        if value.shape == weight.shape
        else value
    )


def _restore(state: TrainingState, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

    for name, network in state.networks().items():
        network.load_state_dict(part(f"{name}."))
    for i, value in part("ema.").items():
        state.ema.shadow_params[int(i)].copy_(value)
    state.ema.optimization_step = int(metadata["ema_step"])
    for name, optimizer in state.optimizers().items():
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        entries: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in part(f"{name}.").items():
            number, quantity = key.split(".")
            entries.setdefault(int(number), {})[quantity] = laid_out_as(weights[int(number)], value)
        optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    state.step = int(metadata["step"])
    state.pending_losses = [float.fromhex(v) for v in metadata["losses"].split(",") if v]


def remove_checkpoints(folder: Path) -> None:
    """Deletes training states once the finished generator is saved."""
    for name in (NEWEST, PREVIOUS):
        (folder / name).unlink(missing_ok=True)
