"""Archives of volumes (NIfTI, NRRD or MetaImage) with label maps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.archive.grouping import Grouping, Named, grouped
from nnunet_difflung.dataset_conversion.archive.image_files import VOLUMES, Facts, read_volume
from nnunet_difflung.dataset_conversion.archive.labelled import MaskFile, labelled_images
from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions
from nnunet_difflung.dataset_conversion.archive.pairing import natural
from nnunet_difflung.dataset_conversion.imaging.geometry import image_like
from nnunet_difflung.dataset_conversion.notes import Note
from nnunet_difflung.dataset_conversion.sources import Listing, Scan
from nnunet_difflung.errors import BadInput


@dataclass(frozen=True)
class VolumeSource:
    """The image and the label maps of a patient; see ``sources.Source``."""

    patient: str
    folder: Path
    image: str
    masks: tuple[MaskFile, ...]
    facts: Facts

    def listing(self) -> Listing:
        """What was read when the archive was searched."""
        problems = [self.facts.problem, *(mask.problem(self.folder) for mask in self.masks)]
        structures = {name for mask in self.masks for name in mask.structures()}
        if not any(problems) and not structures:
            problems.append(self._nothing_drawn())
        return Listing(
            self.patient,
            (self.image, *(mask.path for mask in self.masks)),
            self.facts.size,
            self.facts.spacing,
            "",
            (self.facts.low, self.facts.high),
            tuple(sorted(structures)),
            tuple(p for p in problems if p),
        )

    def _nothing_drawn(self) -> str:
        if not self.masks:
            return (
                f"{self.folder / self.image}: no label map belongs to this image; add one, remove the image, or "
                f"say which files are images and label maps with --image and --masks"
            )
        return (
            f"{self.folder / self.masks[0].path}: an empty mask, and no other mask of {self.patient!r} "
            f"holds a structure; add the missing mask or remove the patient"
        )

    def load(self) -> Scan:
        """The image and a mask for each structure, each on the grid of its file."""
        problems = self.listing().problems
        if problems:
            raise BadInput(problems[0])
        notes = tuple(
            Note(f"{mask.path} is empty", what="label maps that are empty")
            for mask in self.masks
            if not mask.structures()
        )
        files = {
            name: (self.folder / mask.path, value)
            for mask in self.masks
            for value, name in mask.names
            if value in (mask.facts.values or ())
        }
        return Scan(read_volume(self.folder / self.image), LazyStructures(files), notes=notes)


class LazyStructures(dict):
    """Masks that are read on access: a hundred organs at once would not fit into memory."""

    def __init__(self, files: dict[str, tuple[Path, int]]) -> None:
        """Takes the file of each structure and its value in that file."""
        super().__init__(files)
        self._last: tuple[Path, sitk.Image] | None = None

    def __getitem__(self, name: str) -> sitk.Image:
        path, value = super().__getitem__(name)
        if self._last is None or self._last[0] != path:
            self._last = path, read_volume(path)
        array = np.rint(sitk.GetArrayViewFromImage(self._last[1])) == value
        return image_like(array.astype(np.uint8), self._last[1])


def find_sources(folder: Path, options: ArchiveOptions, processes: int = 1) -> tuple[list[VolumeSource], Grouping]:
    """A source for each image, and where the patients are known from; every file is read once, several at a time.

    Raises:
        BadInput: there is no image, a label map belongs to no image, or an option matches nothing.
    """
    images = labelled_images(folder, VOLUMES, options, processes, "volume")
    grouping = grouped([Named(labelled.name, labelled.path) for labelled in images], "volumes", options)
    sources = [
        VolumeSource(patient, folder, labelled.path, labelled.masks, labelled.facts)
        for patient, labelled in zip(grouping.patients, images, strict=True)
    ]
    return sorted(sources, key=lambda source: (natural(source.patient), natural(source.image))), grouping
