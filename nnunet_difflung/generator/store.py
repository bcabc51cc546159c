"""A trained generator on disk: weights in safetensors, and a JSON card with its settings and training cases."""

from __future__ import annotations

from pathlib import Path

import torch

from nnunet_difflung.config import GeneratorConfig, recorded
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.card import CARD, CARD_FORMAT, SPACING, TRAINING_FILES, read_card
from nnunet_difflung.generator.families import trained_family_of
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.methods import METHODS, Method
from nnunet_difflung.runtime.device import ready_for
from nnunet_difflung.runtime.environment import versions
from nnunet_difflung.runtime.files import sha256, sync, write_json


def is_finished(folder: Path) -> bool:
    """Whether a generator's training has ended."""
    return (folder / CARD).is_file() and bool(read_card(folder).get("finished"))


def config_from_json(content: dict) -> GeneratorConfig:
    """Reads the ``GeneratorConfig`` from a card's ``config``."""
    values = {k: v for k, v in content.items() if k != "method"}
    windows = tuple(tuple(window) for window in content["windows"])
    return GeneratorConfig(**{**values, "channels": tuple(content["channels"]), "windows": windows})


def write_card(folder: Path, method: Method, config: GeneratorConfig, content: dict) -> None:
    """Writes ``generator.json``: configuration, data and versions."""
    content = {"format": CARD_FORMAT, "config": recorded(method.name, config), **content, "versions": versions()}
    write_json(folder / CARD, content)


def record_files(folder: Path, files: str | None, spacing: list | None = None) -> None:
    """Records the hash of the files that the training cases are in now, in the card of a finished generator.

    The caller has made sure that the cases hold the same voxels as in training. The files may differ if they were
    written again, and cards of earlier versions do not say. Nothing is recorded of voxels of another size than those
    that it was trained on.

    Args:
        folder: of the generator.
        files: the hash.
        spacing: size of the training cases' voxels (``training.spacing_of``); a card of an earlier version, which does
            not say, gets it if the files are still those of the training, else None: nobody knows.
    """
    card = read_card(folder)
    if card.get(SPACING) not in (None, spacing):
        return
    new = {**card, TRAINING_FILES: files}
    if spacing is not None and SPACING not in card:
        new[SPACING] = spacing if files is not None and card.get(TRAINING_FILES) == files else None
    if new != card:
        write_json(folder / CARD, new)


def save_generator(folder: Path, network: torch.nn.Module, card: dict, method: Method, config: GeneratorConfig) -> None:
    """Saves the averaged weights, and marks the generator as finished once they are on the disk."""
    family = trained_family_of(method)
    family.save(folder, network, config)
    for made in (*folder.iterdir(), folder):
        if made.is_dir():
            sync(made)
    write_card(folder, method, config, {**card, "finished": True, "weights_sha256": sha256(family.weights(folder))})
    sync(folder)


def load_generator(folder: Path, device: str | torch.device = "cpu") -> Generator:
    """Loads a finished generator (safetensors and JSON only).

    Raises:
        BadInput: the generator is missing or not finished, its method is not known to this version, its weights are
            not those that its card names, or its family needs a package that is not installed.
    """
    if not is_finished(folder):
        raise BadInput(f"{folder} holds no finished generator; run difflung_augment, which trains it")
    card = read_card(folder)
    name, config = card["config"]["method"], config_from_json(card["config"])
    if name not in METHODS:
        raise BadInput(f"{folder / CARD} names the method {name!r}; this version knows {', '.join(METHODS)}")
    family = trained_family_of(METHODS[name])
    digest = _checked_weights(folder, card)
    network = family.load(folder, config, len(card["channels"]), len(card["conditions"]))
    network = ready_for(network.requires_grad_(False).eval(), torch.device(device))
    return Generator(network, config, tuple(card["conditions"]), tuple(card["training_cases"]), digest, folder)


def check_weights(folder: Path) -> None:
    """Refuses a finished generator whose weights were lost or changed, before others are trained or used.

    Raises:
        BadInput: its weights are not those that its card names.
    """
    if is_finished(folder) and (card := read_card(folder))["config"]["method"] in METHODS:
        _checked_weights(folder, card)


def _checked_weights(folder: Path, card: dict) -> str:
    """SHA-256 of a finished generator's weights."""
    weights = trained_family_of(METHODS[card["config"]["method"]]).weights(folder)
    digest = sha256(weights) if weights.is_file() else "missing"
    if digest != card["weights_sha256"]:
        raise BadInput(
            f"{weights} is not the file that {CARD} names (SHA-256 {digest[:12]}, expected "
            f"{card['weights_sha256'][:12]}); restore it, or delete {folder} and train again"
        )
    return digest
