"""Training state in safetensors (no pickle), in two generations, so that a kill at any moment loses minutes at most."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from nnunet_difflung.runtime.files import replacing

if TYPE_CHECKING:
    from diffusers.training_utils import EMAModel

NEWEST, PREVIOUS = "checkpoint.safetensors", "checkpoint_previous.safetensors"


@dataclass
class TrainingState:
    """All that a training step changes.

    Attributes:
        network: the generator.
        optimizer: of its weights.
        ema: their average.
        further_networks: trained beside it, by their names in a checkpoint (a GAN's discriminators).
        further_optimizers: of those, by their names in a checkpoint.
        step: steps done.
        pending_losses: of the steps since the last row of the log.
    """

    network: torch.nn.Module
    optimizer: torch.optim.Optimizer
    ema: EMAModel
    further_networks: dict[str, torch.nn.Module] = field(default_factory=dict)
    further_optimizers: dict[str, torch.optim.Optimizer] = field(default_factory=dict)
    step: int = 0
    pending_losses: list[float] = field(default_factory=list)

    def networks(self) -> dict[str, torch.nn.Module]:
        """Networks by their names in a checkpoint."""
        return {"network": self.network, **self.further_networks}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Optimizers by their names in a checkpoint."""
        return {"optimizer": self.optimizer, **self.further_optimizers}


def save_checkpoint(state: TrainingState, folder: Path, settings: str) -> None:
    """Writes the state; the newest checkpoint so far becomes the previous one.

    Args:
        state: to save.
        folder: of the generator.
        settings: hash of what the training depends on; a checkpoint of other settings is never loaded.
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
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, temporary, metadata)
        if _is_whole(folder / NEWEST):  # a damaged one must not replace the one that training went on from
            os.replace(folder / NEWEST, folder / PREVIOUS)


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(path, "pt"):
            return True
    except (SafetensorError, OSError, ValueError):
        return False


def load_checkpoint(state: TrainingState, folder: Path, settings: str) -> str | None:
    """Restores the newest readable checkpoint of these settings into ``state``.

    Returns:
        A line to show if the newest one could not be read and the previous one was taken, else None.
    """
    unreadable = None
    for name in (NEWEST, PREVIOUS):
        if not (folder / name).is_file():
            continue
        try:
            with safe_open(folder / name, "pt") as file:
                metadata = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        except (SafetensorError, OSError, ValueError) as error:
            unreadable = f"{folder / name} is damaged ({error}); going on from the checkpoint before it"
            continue
        if metadata.get("settings") == settings:
            _restore(state, tensors, metadata)
            return unreadable
    return unreadable


def laid_out_as(weight: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The value with its numbers in the order of the weight's (channels_last on CUDA), as a fused optimizer needs it.

    Values of another shape, such as a count of steps, stay as they are.
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
