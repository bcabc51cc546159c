"""Writes docs/augment.md's table of the presets: every setting in which they and their methods differ.

python -m tests.installation.presets
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from nnunet_difflung.commands.augment import parser
from nnunet_difflung.config import PRESETS, Settings, preset
from nnunet_difflung.generator.families import with_own_sampling
from nnunet_difflung.methods import METHODS

PAGE = Path(__file__).parents[2] / "docs" / "augment.md"
BEGIN, END = "<!-- presets -->\n", "<!-- end of presets -->"


def rows() -> Iterator[list[str]]:
    """Option, or setting that has none, and its value in each preset."""
    settings = {name: asdict(_with_its_method(preset(name))) for name in PRESETS}
    options = {action.dest: action.option_strings[0] for action in parser()._actions if action.option_strings}
    yield [f"`{options['method']}`", *(settings[name]["method"] for name in PRESETS)]
    for part in ("generator", "sampling", "balance"):
        for key in settings["default"][part]:
            values = [settings[name][part][key] for name in PRESETS]
            if len(set(map(str, values))) > 1:
                yield [f"`{options[key]}`" if key in options else key.replace("_", " "), *map(_written, values)]


def _with_its_method(settings: Settings) -> Settings:
    """A preset with the sampler and margin of its method."""
    return replace(settings, sampling=with_own_sampling(METHODS[settings.method], settings.sampling))


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(_written, value))
    if value is None:
        return "–"
    return f"{value:g}" if isinstance(value, float) else str(value)


def written(page: str) -> str:
    """The page with the table of now."""
    before, rest = page.split(BEGIN)
    lines = [["setting", *(f"`{name}`" for name in PRESETS)], ["---"] * (1 + len(PRESETS)), *rows()]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return before + BEGIN + table + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
