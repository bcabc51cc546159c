"""Archives of volumes (NIfTI, NRRD or MetaImage) with label maps."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.archive.grouping import Grouping, Named, grouped
from nnunet_difflung.dataset_conversion.archive.labelled import LabelledImage, Orphan, labelled_images
from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions
from nnunet_difflung.dataset_conversion.archive.pairing import natural
from nnunet_difflung.dataset_conversion.files.image_files import VOLUMES
from nnunet_difflung.dataset_conversion.files.segment_names import Segment
from nnunet_difflung.dataset_conversion.files.volume_files import Volume, check_complete, open_volume
from nnunet_difflung.dataset_conversion.imaging.geometry import (
    image_like,
    is_orthogonal,
    on_grid,
    same_grid,
    straightened,
)
from nnunet_difflung.dataset_conversion.imaging.intensities import AIR
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.dataset_conversion.sources import Listing, Scan
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.completeness import voxel_file

IN_PLANE = 0.1  # degrees by which the axes of a slice may differ from a right angle


@dataclass(frozen=True)
class VolumeSource:
    """The image and the label maps of a patient; see ``sources.Source``."""

    patient: str
    folder: Path
    labelled: LabelledImage

    def listing(self) -> Listing:
        """What was read when the archive was searched."""
        about, masks = self.labelled.facts, self.labelled.masks
        problems = [about.problem, *(mask.problem(self.folder) for mask in masks)]
        structures = {name for mask in masks for name in mask.structures()}
        if not any(problems) and not structures:
            problems.append(self._nothing_drawn())
        problems += self.labelled.twice(self.folder)
        return Listing(
            self.patient,
            self._files(),
            about.size,
            about.spacing,
            "",
            (about.low, about.high),
            tuple(sorted(structures)),
            tuple(p for p in problems if p),
            tuple(named for mask in masks for named in mask.named()),
        )

    def _files(self) -> tuple[str, ...]:
        """The files of image and label maps, and those in which headers say that their voxels are."""
        files = [self.labelled.path, *(mask.path for mask in self.labelled.masks)]
        voxels = [voxel_file(self.folder / file) for file in files]
        return (*files, *(os.path.relpath(file, self.folder) for file in voxels if file))

    def _nothing_drawn(self) -> str:
        if not self.labelled.masks:
            return (
                f"{self.folder / self.labelled.path}: no label map belongs to this image; add one, remove the image, "
                f"or say which files are images and label maps with --image and --masks"
            )
        return (
            f"{self.folder / self.labelled.masks[0].path}: an empty mask, and no other mask of {self.patient!r} "
            f"holds a structure; add the missing mask or remove the patient"
        )

    def load(self) -> Scan:
        """The image and a mask for each structure, each on the grid of its file; sheared images are straightened."""
        problems = self.listing().problems
        if problems:
            raise BadInput(problems[0])
        path = self.folder / self.labelled.path
        for file in (self.labelled.path, *(mask.path for mask in self.labelled.masks)):
            check_complete(self.folder / file)
        notes = [*self.labelled.notes, *self.labelled.facts.notes]
        for mask in self.labelled.masks:
            notes += mask.notes()
            if not mask.structures():
                notes.append(Note(f"{mask.path} is empty", what="label maps that are empty"))
        image = stored = open_volume(path).image
        if not is_orthogonal(stored):
            _check_sheared(stored, path)
            image = straightened(stored, AIR if self.labelled.facts.low < 0 else self.labelled.facts.low)
            what = "sheared volumes (of a tilted gantry) resampled onto straight slices"
            notes.append(Note(f"{self.labelled.path} is sheared and was straightened", Kind.MOVED, what=what))
        drawn: dict[str, list[tuple[Path, Segment]]] = {}
        for mask in self.labelled.masks:
            for segment in mask.drawn():
                drawn.setdefault(segment.name, []).append((self.folder / mask.path, segment))
        return Scan(image, LazyStructures(drawn, stored, image), notes=tuple(dict.fromkeys(notes)))


def _check_sheared(image: sitk.Image, path: Path) -> None:
    """Raises BadInput if more is sheared than the shift from slice to slice."""
    axes = np.array(image.GetDirection()).reshape(3, 3)
    angle = np.degrees(np.arccos(np.clip(axes[:, 0] @ axes[:, 1], -1, 1)))
    if abs(angle - 90) > IN_PLANE:
        raise BadInput(
            f"{path}: a sheared image, whose slices have axes at {angle:.1f}° to each other; expected 90°: resample "
            f"image and label maps onto a grid at right angles (such as with 3D Slicer's Resample Scalar/Vector/DWI "
            f"Volume), or correct the affine in their headers"
        )


class LazyStructures(dict):
    """Masks that are read on access: a hundred organs at once would not fit into memory."""

    def __init__(self, drawn: dict[str, list[tuple[Path, Segment]]], stored: sitk.Image, image: sitk.Image) -> None:
        """Takes the files and segments of each structure, and the image as it is stored and as it is used."""
        super().__init__(drawn)
        self._stored, self._image = stored, image
        self._last: tuple[Path, Volume] | None = None

    def __getitem__(self, name: str) -> sitk.Image:
        mask: sitk.Image | None = None
        for path, segment in super().__getitem__(name):
            if self._last is None or self._last[0] != path:
                self._last = path, open_volume(path)
            layer = self._last[1].layer(segment.layer)
            array = (np.rint(sitk.GetArrayViewFromImage(layer)) == segment.value).astype(np.uint8)
            mask = image_like(array if mask is None else array | sitk.GetArrayViewFromImage(mask), layer)
        if mask is None:
            raise KeyError(name)
        if self._image is not self._stored and same_grid(mask, self._stored):
            return image_like(on_grid(mask, self._image), self._image)
        return mask


def find_sources(
    folder: Path, options: ArchiveOptions, processes: int = 1
) -> tuple[list[VolumeSource | Orphan], Grouping]:
    """A source for each image, and where the patients are known from; every file is read once, several at a time.

    Label maps without an image are sources that cannot be loaded.

    Raises:
        BadInput: there is no image, or an option matches nothing.
    """
    images, orphans = labelled_images(folder, VOLUMES, options, processes, "volume")
    grouping = grouped([Named(labelled.name, labelled.path) for labelled in images], "volumes", options)
    sources = [
        VolumeSource(patient, folder, labelled) for patient, labelled in zip(grouping.patients, images, strict=True)
    ]
    in_order = sorted(sources, key=lambda source: (natural(source.patient), natural(source.labelled.path)))
    return [*in_order, *orphans], grouping
