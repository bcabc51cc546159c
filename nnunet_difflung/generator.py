"""A trained generator on disk: diffusers' ``save_pretrained`` form and one JSON that says what it was trained on."""
from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from diffusers import UNet2DModel

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.config import GeneratorConfig
from nnunet_difflung.files import read_json, sha256, write_json

CARD = "generator.json"
_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
_PACKAGES = ("nnunet_difflung", "nnunetv2", "torch", "diffusers", "accelerate", "numpy")


@dataclass(frozen=True)
class Generator:
    """Averaged weights, ready to paint.

    Attributes:
        network: in evaluation mode.
        config: with the windows and patch size that were resolved from the fold's training cases.
        conditions: names of the condition channels.
        training_cases: ids of all cases that the weights have seen.
        hash: SHA-256 of the weights' file.
        folder: where it lies.
    """

    network: UNet2DModel
    config: GeneratorConfig
    conditions: tuple[str, ...]
    training_cases: tuple[str, ...]
    hash: str
    folder: Path


def is_finished(folder: Path) -> bool:
    """Whether a generator's training has ended."""
    return (folder / CARD).is_file() and bool(read_json(folder / CARD).get("finished"))


def config_from_json(content: dict) -> GeneratorConfig:
    """Inverse of writing a ``GeneratorConfig`` as JSON."""
    windows = tuple(tuple(window) for window in content["windows"])
    return GeneratorConfig(**{**content, "channels": tuple(content["channels"]), "windows": windows})


def write_card(folder: Path, config: GeneratorConfig, content: dict) -> None:
    """Writes ``generator.json``: configuration, data and versions."""
    write_json(folder / CARD, {"config": asdict(config), **content, "versions": versions()})


def save_generator(folder: Path, network: UNet2DModel, process, card: dict, config: GeneratorConfig) -> None:
    """Saves the averaged weights and marks the generator as finished."""
    network.save_pretrained(folder / "unet")
    process.save_pretrained(folder / "scheduler")
    write_card(folder, config, {**card, "finished": True, "weights_sha256": sha256(folder / _WEIGHTS)})


def load_generator(folder: Path, device: str | torch.device = "cpu") -> Generator:
    """Loads a finished generator (safetensors and JSON only).

    Raises:
        BadInput: it is not there, not finished, or its weights are not those that its JSON names.
    """
    if not is_finished(folder):
        raise BadInput(f"{folder} holds no finished generator; run difflung_augment, which trains it")
    card = read_json(folder / CARD)
    weights = sha256(folder / _WEIGHTS)
    if weights != card["weights_sha256"]:
        raise BadInput(f"{folder / _WEIGHTS} is not the file that {CARD} names (SHA-256 {weights[:12]}, expected "
                       f"{card['weights_sha256'][:12]}); delete {folder} and train again")
    network = UNet2DModel.from_pretrained(folder / "unet", use_safetensors=True, local_files_only=True)
    network.requires_grad_(False).eval().to(device)
    return Generator(network, config_from_json(card["config"]), tuple(card["conditions"]),
                     tuple(card["training_cases"]), weights, folder)


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
