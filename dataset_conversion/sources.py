"""The interface of all kinds of archives: patients that can be listed quickly and loaded one at a time.

``dicom.source``, ``archive.volumes`` and ``archive.slices`` each have a function ``find_sources`` for objects of the
protocol ``Source``, one for each scan of a patient; ``archive.grouping`` says who the patients are. The rest of the
conversion does not depend on the kind of archive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from nnunet_difflung.dataset_conversion.notes import Note

if TYPE_CHECKING:
    import SimpleITK as sitk


@dataclass(frozen=True)
class Listing:
    """What is known about a patient without loading all images.

    Attributes:
        patient: name in the archive, see ``Source``.
        files: paths of the patient's files, relative to the folder of the archive.
        size: voxels along x, y, z.
        spacing: mm along x, y, z.
        modality: ``CT``, ``MR``, … if the archive gives it, else ``""``.
        intensity: lowest and highest value (HU if the archive gives the rescaling).
        structures: names of the drawn structures, sorted.
        problems: reasons why this patient cannot be converted, one line each.
        named: name, value and layer of each structure that a file beside the label maps may name, in the order of
            ``files``.
    """

    patient: str
    files: tuple[str, ...]
    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    modality: str
    intensity: tuple[float, float]
    structures: tuple[str, ...]
    problems: tuple[str, ...] = ()
    named: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class Scan:
    """A loaded scan of a patient.

    Attributes:
        image: 3D, one component; HU for CT if the archive gives the rescaling, else the values in the file.
        structures: name → uint8 image of 0 and 1 in the same physical space, not necessarily on the same grid.
        modality: see ``Listing``.
        annotated: z of the slices that were annotated; None if this is not known, in which case all slices are taken
            as annotated.
        windowed: whether the intensities are a display window and not HU; None if only the values can tell.
        notes: for the report on this patient.
        faults: structure → why it cannot be placed on the image, one line. The patient is refused if the mapping uses
            the structure.
        derived: names of structures that no reader drew.
        apart: whether the slices are pictures that do not form a volume: how far apart they are is not known.
    """

    image: sitk.Image
    structures: dict[str, sitk.Image]
    modality: str = ""
    annotated: tuple[int, ...] | None = None
    windowed: bool | None = None
    notes: tuple[Note, ...] = field(default=())
    faults: Mapping[str, str] = field(default_factory=dict)
    derived: tuple[str, ...] = ()
    apart: bool = False


class Source(Protocol):
    """A scan of a patient in an archive; immutable and picklable, since worker processes load it.

    Attributes:
        patient: name in the archive; ``pipeline.patients`` turns it into a safe id.
        folder: root folder of the archive, for messages.
    """

    @property
    def patient(self) -> str: ...

    @property
    def folder(self) -> Path: ...

    def listing(self) -> Listing:
        """Reads headers and few intensities; damaged files do not raise, but are listed in ``problems``."""
        ...

    def load(self) -> Scan:
        """Loads image and structures.

        Raises:
            BadInput: the patient cannot be loaded; one line that gives the file, what is wrong, and what to do.
        """
        ...
