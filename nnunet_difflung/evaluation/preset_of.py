"""The preset that generators were trained with, as their cards tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from nnunet_difflung.config import PRESETS, preset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.card import CARD, read_card


def preset_of(folders: Iterable[Path]) -> str:
    """The preset whose sampler and number of steps suit generators.

    Args:
        folders: the generators' folders; those without a card are ignored.

    Returns:
        ``default`` where there is no generator.

    Raises:
        BadInput: they were trained with presets that sample differently.
    """
    found = {nearest_preset(read_card(folder)["config"]): folder for folder in folders if (folder / CARD).is_file()}
    ways = {(preset(name).sampling.sampler, preset(name).sampling.steps) for name in found}
    if len(ways) > 1:
        named = "; ".join(f"{folder} with {name}" for name, folder in sorted(found.items()))
        raise BadInput(f"the generators were trained with presets that sample differently ({named}); give --preset")
    return min(found, default="default")


def nearest_preset(config: dict) -> str:
    """The preset that most of a generator's settings are of, of those in which presets differ."""
    settings = {name: asdict(preset(name).generator) for name in PRESETS}
    differing = [key for key, usual in settings["default"].items() if any(s[key] != usual for s in settings.values())]
    return max(PRESETS, key=lambda name: sum(_same(config.get(key), settings[name][key]) for key in differing))


def _same(recorded: object, value: object) -> bool:
    return (tuple(recorded) if isinstance(recorded, list) else recorded) == value
