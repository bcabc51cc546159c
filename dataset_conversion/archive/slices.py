"""Archives of slices (PNG, TIFF or BMP) with masks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.archive.image_files import SLICES, Facts, read_slice
from nnunet_difflung.dataset_conversion.archive.labelled import LabelledImage, labelled_images
from nnunet_difflung.dataset_conversion.archive.names import patients_of
from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions, patient_by
from nnunet_difflung.dataset_conversion.archive.pairing import natural
from nnunet_difflung.dataset_conversion.sources import Listing, Scan
from nnunet_difflung.errors import BadInput

_MASK_WORDS = re.compile(
    r"(?<![a-z])(masks?|msk|seg(mentation)?s?|labels?(Tr|Ts)?|annotations?|gt|lesions?)(?![a-z])", re.IGNORECASE
)


@dataclass(frozen=True)
class SliceSource:
    """The slices of a patient, stacked in the order of their names; see ``sources.Source``.

    The position of a slice in the patient is not known: slices are placed 1 mm apart and do not form a volume.
    """

    patient: str
    folder: Path
    slices: tuple[LabelledImage, ...]
    pixel_spacing: float | None
    ungrouped: bool = False  # every slice of the archive is a patient of its own

    def listing(self) -> Listing:
        """What was read when the archive was searched."""
        facts = [labelled.facts for labelled in self.slices]
        structures = self._structures()
        files = tuple(
            path for labelled in self.slices for path in (labelled.path, *(mask.path for mask in labelled.masks))
        )
        size = (*facts[0].size[:2], len(facts))
        return Listing(
            self.patient,
            files,
            size,
            self._spacing(),
            "",
            (min(f.low for f in facts), max(f.high for f in facts)),
            tuple(sorted(structures)),
            tuple(self._problems(structures)),
        )

    def _structures(self) -> set[str]:
        return {name for labelled in self.slices for mask in labelled.masks for name in mask.structures()}

    def _spacing(self) -> tuple[float, float, float]:
        size = self.pixel_spacing
        return (size, size, 1.0) if size else (*self.slices[0].facts.spacing[:2], 1.0)

    def _problems(self, structures: set[str]) -> list[str]:
        problems = [problem for labelled in self.slices for problem in self._problems_of(labelled)]
        masks = [mask.path for labelled in self.slices for mask in labelled.masks]
        if not problems and not structures and masks:
            problems.append(
                f"{self.folder / masks[0]}: an empty mask, and no other mask of {self.patient!r} holds a structure; "
                f"remove the patient"
            )
        elif not problems and not structures:
            problems.append(
                f"{self.folder / self.slices[0].path}: no mask belongs to any slice of {self.patient!r}; "
                f"add the masks or remove the patient"
            )
        return problems

    def _problems_of(self, labelled: LabelledImage) -> list[str]:
        """Problems of one slice and its masks."""
        path, facts, first = self.folder / labelled.path, labelled.facts, self.slices[0]
        problems = [facts.problem] if facts.problem else []
        if facts.colour:
            problems.append(f"{path}: a colour image; expected grey values: save the image in greyscale")
        if facts.size != first.facts.size:
            problems.append(
                f"{path}: {_pixels(facts)} pixels, but {first.path} of the same patient has {_pixels(first.facts)}; "
                f"expected slices of the same size: pad or resample them"
            )
        if not self.pixel_spacing and min(facts.spacing[:2]) <= 0:
            problems.append(f"{path}: the file does not give a pixel size in mm; give it with --pixel-spacing MM")
        elif not self.pixel_spacing and not np.allclose(facts.spacing, first.facts.spacing, rtol=1e-3):
            problems.append(
                f"{path}: pixels of {facts.spacing[0]:g} mm, but {first.path} of the same patient has pixels of "
                f"{first.facts.spacing[0]:g} mm; expected the same pixel size: resample the slices"
            )
        for mask in labelled.masks:
            problem = mask.problem(self.folder)
            if not problem and mask.facts.size != facts.size:
                problem = (
                    f"{self.folder / mask.path}: {_pixels(mask.facts)} pixels, but {labelled.path} has "
                    f"{_pixels(facts)}; expected a mask of the size of its image: export it again"
                )
            if problem:
                problems.append(problem)
        return problems

    def load(self) -> Scan:
        """The slices and their masks, stacked."""
        problems = self.listing().problems
        if problems:
            raise BadInput(problems[0])
        image = self._placed(
            np.stack([read_slice(self.folder / labelled.path, mask=False)[0] for labelled in self.slices])
        )
        drawn = {name: np.zeros(image.GetSize()[::-1], np.uint8) for name in sorted(self._structures())}
        for z, mask in ((z, mask) for z, labelled in enumerate(self.slices) for mask in labelled.masks):
            labels = np.rint(read_slice(self.folder / mask.path, mask=True)[0])
            for value, name in mask.names:
                if name in drawn:
                    drawn[name][z] |= labels == value
        annotated = tuple(z for z, labelled in enumerate(self.slices) if labelled.masks)
        notes = []
        if self.ungrouped:
            notes.append("every slice is taken as a patient of its own; group slices by patient with --patient-pattern")
        return Scan(
            image, {name: self._placed(mask) for name, mask in drawn.items()}, annotated=annotated, notes=tuple(notes)
        )

    def _placed(self, array: np.ndarray) -> sitk.Image:
        array = array.astype(
            np.uint8 if array.dtype == np.uint8 else np.int32 if array.dtype.kind in "iu" else np.float32
        )
        image = sitk.GetImageFromArray(array)
        image.SetSpacing([float(v) for v in self._spacing()])
        return image


def find_sources(folder: Path, options: ArchiveOptions, processes: int = 1) -> list[SliceSource]:
    """A source for each patient; slices are grouped by --patient-pattern, by folder, or by name without slice counter.

    Raises:
        BadInput: there is no image, a mask belongs to no image, or an option matches nothing.
    """
    images = labelled_images(folder, SLICES, options, processes, "slice", _roles_by_name)
    groups: dict[str, list[LabelledImage]] = {}
    patients = _patients([labelled.name for labelled in images], options.patient_pattern)
    for patient, labelled in zip(patients, images, strict=True):
        groups.setdefault(patient, []).append(labelled)
    ungrouped = len(groups) == len(images) > 1
    return [
        SliceSource(patient, folder, tuple(slices), options.pixel_spacing, ungrouped)
        for patient, slices in sorted(groups.items(), key=lambda item: natural(item[0]))
    ]


def _roles_by_name(paths: list[str]) -> dict[str, bool] | None:
    """Path → whether it is a mask, if some of the paths contain a word for masks and some do not; else None."""
    roles = {path: bool(_MASK_WORDS.search(path.rpartition(".")[0])) for path in paths}
    return roles if len(set(roles.values())) == 2 else None


def _patients(names: list[str], pattern: str | None) -> list[str]:
    """The patient of each slice, from the pattern, else the folder, else the name without its slice counter."""
    if pattern is not None:
        return [patient_by(pattern, name) for name in names]
    if any("/" in name for name in names):
        return [name.rpartition("/")[0] or name for name in names]
    patient_of = patients_of(names)
    return [patient_of[name] for name in names]


def _pixels(facts: Facts) -> str:
    return f"{facts.size[0]} x {facts.size[1]}"
