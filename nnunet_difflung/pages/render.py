"""Writes a page as one HTML file that needs no other file, no network and no server."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_difflung.pages import blocks
from nnunet_difflung.runtime.files import write_bytes

if TYPE_CHECKING:
    from jinja2 import Environment

WORDS = {"good": "good", "look": "look at this", "bad": "problem", "unknown": "not judged"}


def as_html(page: blocks.Page) -> str:
    """The page as HTML; whatever is not markup of the template is escaped."""
    numbers = {id(picture): number for number, picture in enumerate(page.pictures)}
    return (
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            kind=lambda block: type(block).__name__,
            anchor=anchor,
            number=lambda picture: numbers[id(picture)],
            words=WORDS,
            style=_asset("page.css"),
            script=_asset("page.js"),
        )
    )


def write_page(page: blocks.Page, path: Path) -> None:
    """Writes the page, completely or not at all."""
    write_bytes(path, as_html(page).encode())


def anchor(title: str) -> str:
    """The name of a section in links; no element of the page's frame is called like it."""
    return "section-" + re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined  # late: commands without a report do not need it

    return Environment(
        loader=PackageLoader("nnunet_difflung.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
