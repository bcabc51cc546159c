"""What every kind of archive gives a converter: patients that can be listed cheaply and loaded one at a time.

``dicom.source``, ``archive.volumes`` and ``archive.slices`` each have a ``find_sources`` that returns objects of the
``Source`` protocol; nothing behind this file knows where a patient came from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import SimpleITK as sitk


@dataclass(frozen=True)
class Listing:
    """What can be said of a patient without loading all of it.

    Attributes:
        patient: name in the archive, as of ``Source``.
        files: relative paths of what was looked at.
        size: voxels along x, y, z.
        spacing: mm along x, y, z.
        modality: ``CT``, ``MR``, … where the archive says so, else ``""``.
        intensity: lowest and highest value (HU after rescaling, where the archive knows it).
        structures: names of what was drawn, sorted.
        problems: what would stop the conversion of this patient, one line each.
    """

    patient: str
    files: tuple[str, ...]
    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    modality: str
    intensity: tuple[float, float]
    structures: tuple[str, ...]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scan:
    """A loaded patient.

    Attributes:
        image: 3D, one component; HU for CT whose archive knows them, else what the file holds.
        structures: name → uint8 image of 0 and 1 in the same physical space, not necessarily on the same grid.
        modality: as of ``Listing``.
        annotated: positions along the image's z axis that the annotator has looked at; None where that is not known,
            which means all of them.
        windowed: the intensities are a display window and no HU; None where only the values can tell.
        notes: what the report should say of this patient, one line each.
    """

    image: sitk.Image
    structures: dict[str, sitk.Image]
    modality: str = ""
    annotated: tuple[int, ...] | None = None
    windowed: bool | None = None
    notes: tuple[str, ...] = field(default=())


class Source(Protocol):
    """A patient in an archive; frozen and picklable, since worker processes load it.

    Attributes:
        patient: name in the archive; becomes an id only after ``pipeline.patients`` has made it safe.
        folder: the archive's root, for messages.
    """

    @property
    def patient(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    def listing(self) -> Listing:
        """Headers and as few intensities as will do; never raises for a damaged patient, names it in ``problems``."""
        ...

    def load(self) -> Scan:
        """All of it.

        Raises:
            BadInput: one line that names the file, what was found, what was expected and the remedy.
        """
        ...
