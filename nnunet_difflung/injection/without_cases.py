"""JSON files of a dataset without its synthetic cases, for when the original bytes are lost or were edited since."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

from nnunet_difflung.injection.json_style import in_style_of
from nnunet_difflung.paths import DATASET


def take_out(name: str, content: Any, cases: set[str], real: set[str]) -> Any:
    """The content of ``dataset.json`` or of a split file without synthetic cases; nothing else changes.

    Args:
        name: name of the file.
        content: its content.
        cases: ids of the synthetic cases.
        real: ids of the real cases.

    Raises:
        KeyError, TypeError, AttributeError: the content is not that of such a file.
    """
    if name.endswith(DATASET):
        changed = {**content}
        if content["numTraining"] != len(real):  # else somebody has corrected it by hand
            changed["numTraining"] = content["numTraining"] - len(cases)
        if "dataset" in content:
            changed["dataset"] = {i: entry for i, entry in content["dataset"].items() if i not in cases}
        return changed
    return [
        {key: [i for i in ids if i not in cases] if key in ("train", "val") else ids for key, ids in split.items()}
        for split in content
    ]


def as_bytes(content: Any, expected: str | None, example: bytes) -> bytes:
    """JSON in the format that gives the expected hash, or else written like an example.

    Args:
        content: what to write.
        expected: SHA-256 of the original; None if it is not known.
        example: a file with similar content.
    """
    try:
        styled = in_style_of(example, content)
    except ValueError:
        styled = (json.dumps(content, indent=4) + "\n").encode()
    for written in (styled, *(_write(content) for _write in _formats())) if expected else ():
        if hashlib.sha256(written).hexdigest() == expected:
            return written
    return styled


def _formats() -> Iterator[Callable[[Any], bytes]]:
    """The usual ways to write JSON, those of nnU-Net and of this package among them."""
    indents: list[tuple[int | str | None, tuple[str, str] | None]]
    indents = [(4, None), (1, None), (2, None), (None, None), (None, (",", ":")), ("\t", None), (3, None), (0, None)]
    for (indent, separators), ascii_only, in_order, end in itertools.product(
        indents, (True, False), (False, True), ("", "\n")
    ):

        def write(
            content: Any,
            indent: int | str | None = indent,
            separators: tuple[str, str] | None = separators,
            ascii_only: bool = ascii_only,
            in_order: bool = in_order,
            end: str = end,
        ) -> bytes:
            text = json.dumps(
                content, indent=indent, separators=separators, ensure_ascii=ascii_only, sort_keys=in_order
            )
            return (text + end).encode()

        yield write
