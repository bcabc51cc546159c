"""A synthetic case that is ready to be injected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StagedCase:
    """A synthetic case whose files are complete and have their final names.

    The injection moves files that lie under ``staging_folder`` and copies all others.

    Attributes:
        identifier: ``difflung_…``.
        images: ``<id>_0000<ending>``, …; ``<id>.json`` beside them, for 3D TIFF, is injected too.
        label: ``<id><ending>``; ``<id>.json`` beside it, for 3D TIFF, is injected too.
        record: the manifest's entry: method, fold, sources, host, slices, operations, seed, generator, quality.
    """

    identifier: str
    images: tuple[Path, ...]
    label: Path
    record: dict
