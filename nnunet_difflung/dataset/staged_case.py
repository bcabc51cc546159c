"""A synthetic case that waits for its injection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StagedCase:
    """A synthetic case whose files are complete and have their final names.

    Under ``staging_folder`` they are moved by the injection, anywhere else they are copied.

    Attributes:
        identifier: ``difflung_…``.
        images: ``<id>_0000<ending>``, …; a 3D TIFF's ``<id>.json`` beside them goes with them.
        label: ``<id><ending>``, and ``<id>.json`` beside it.
        record: the manifest's entry: method, fold, sources, host, slices, operations, seed, generator, quality.
    """

    identifier: str
    images: tuple[Path, ...]
    label: Path
    record: dict
