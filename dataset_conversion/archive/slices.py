"""Archives of PNG, TIFF or BMP slices with masks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_difflung.dataset.splits import patients_of
from nnunet_difflung.dataset_conversion.archive.image_files import SLICES, read_slice
from nnunet_difflung.dataset_conversion.archive.labelled import LabelledImage, labelled_images
from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions, patient_by
from nnunet_difflung.dataset_conversion.archive.pairing import natural
from nnunet_difflung.dataset_conversion.sources import Listing, Scan
from nnunet_difflung.errors import BadInput

_MASK_WORDS = re.compile(
    r"(?<![a-z])(masks?|msk|seg(mentation)?s?|labels?(Tr|Ts)?|annotations?|gt|lesions?)(?![a-z])", re.IGNORECASE
)


@dataclass(frozen=True)
class SliceSource:
    """A patient's slices, stacked in the order of their names; see ``sources.Source``.

    Where a slice lies in the patient is not known, so they are a millimetre apart and make no volume.
    """

    patient: str
    folder: Path
    slices: tuple[LabelledImage, ...]
    pixel_spacing: float | None
    lonely: bool = False  # no slice of the archive shares its patient with another

    def listing(self) -> Listing:
        """From what was read when the archive was looked through."""
        facts = [one.facts for one in self.slices]
        structures = {name for one in self.slices for mask in one.masks for name in mask.structures()}
        files = tuple(path for one in self.slices for path in (one.path, *(mask.path for mask in one.masks)))
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

    def _spacing(self) -> tuple[float, float, float]:
        size = self.pixel_spacing
        return (size, size, 1.0) if size else (*self.slices[0].facts.spacing[:2], 1.0)

    def _problems(self, structures: set[str]) -> list[str]:
        problems = []
        first = self.slices[0]
        for one in self.slices:
            where = self.folder / one.path
            problems += [one.facts.problem] if one.facts.problem else []
            if one.facts.colour:
                problems.append(f"{where}: a picture in colour; expected grey values; save it as grey")
            if one.facts.size != first.facts.size:
                problems.append(
                    f"{where}: {one.facts.size[:2]} pixels, but {first.path} of the same patient has "
                    f"{first.facts.size[:2]}; expected slices of one size; bring them to one"
                )
            if not self.pixel_spacing and min(one.facts.spacing[:2]) <= 0:
                problems.append(f"{where} holds no pixel size in mm; give it with --pixel-spacing MM")
            elif not self.pixel_spacing and not np.allclose(one.facts.spacing, first.facts.spacing, rtol=1e-3):
                problems.append(
                    f"{where}: pixels of {one.facts.spacing[0]:g} mm, but {first.path} of the same "
                    f"patient has {first.facts.spacing[0]:g} mm; expected one size"
                )
            for mask in one.masks:
                problem = mask.problem(self.folder)
                if not problem and mask.facts.size != one.facts.size:
                    problem = (
                        f"{self.folder / mask.path}: {mask.facts.size[:2]} pixels, but {one.path} has "
                        f"{one.facts.size[:2]}; expected a mask on the image's pixels; export it again"
                    )
                problems += [problem] if problem else []
        if not problems and not structures:
            masks = [mask.path for one in self.slices for mask in one.masks]
            problems.append(
                f"{self.folder / masks[0]}: an empty mask, and nothing else is drawn for {self.patient!r}; "
                f"take the patient out"
                if masks
                else f"{self.folder / first.path}: no mask belongs to "
                f"any slice of {self.patient!r}; add them or take the patient out"
            )
        return problems

    def load(self) -> Scan:
        """The slices as a stack."""
        problems = self.listing().problems
        if problems:
            raise BadInput(problems[0])
        image = self._placed(np.stack([read_slice(self.folder / one.path, mask=False)[0] for one in self.slices]))
        names = {name for one in self.slices for mask in one.masks for name in mask.structures()}
        drawn = {name: np.zeros(image.GetSize()[::-1], np.uint8) for name in sorted(names)}
        for z, mask in ((z, mask) for z, one in enumerate(self.slices) for mask in one.masks):
            labels = np.rint(read_slice(self.folder / mask.path, mask=True)[0])
            for value, name in mask.names:
                if name in drawn:
                    drawn[name][z] |= labels == value
        annotated = tuple(z for z, one in enumerate(self.slices) if one.masks)
        notes = ["no other slice of this patient is known; --patient-pattern groups slices"] if self.lonely else []
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
    """One source for each patient: by --patient-pattern, by folder, or by the name without its slice counter.

    Raises:
        BadInput: no image, a mask without image, or options that fit nothing.
    """
    images = labelled_images(folder, SLICES, options, processes, "slice", _roles_by_name)
    groups: dict[str, list[LabelledImage]] = {}
    for patient, one in zip(_patients([one.name for one in images], options.patient_pattern), images, strict=True):
        groups.setdefault(patient, []).append(one)
    lonely = len(groups) == len(images) > 1
    return [
        SliceSource(patient, folder, tuple(slices), options.pixel_spacing, lonely)
        for patient, slices in sorted(groups.items(), key=lambda item: natural(item[0]))
    ]


def _roles_by_name(paths: list[str]) -> dict[str, bool] | None:
    """Path → whether it is a mask, where the names say so: some hold a word for masks and some do not."""
    roles = {path: bool(_MASK_WORDS.search(path.rpartition(".")[0])) for path in paths}
    return roles if len(set(roles.values())) == 2 else None


def _patients(names: list[str], pattern: str | None) -> list[str]:
    """The patient of each slice: by the pattern, else by its folder, else by its name without the slice counter."""
    if pattern is not None:
        return [patient_by(pattern, name) for name in names]
    if any("/" in name for name in names):
        return [name.rpartition("/")[0] or name for name in names]
    known = patients_of(names)
    return [known[name] for name in names]
