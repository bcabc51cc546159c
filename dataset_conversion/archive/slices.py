"""Archives of slices (PNG, TIFF or BMP) with masks."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.archive.grouping import Grouping, Named, grouped
from nnunet_difflung.dataset_conversion.archive.labelled import LabelledImage, Orphan, labelled_images, unread
from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions
from nnunet_difflung.dataset_conversion.archive.pairing import natural
from nnunet_difflung.dataset_conversion.files.image_files import SLICES, Facts
from nnunet_difflung.dataset_conversion.files.picture_files import read_picture
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.dataset_conversion.sources import Listing, Scan
from nnunet_difflung.errors import BadInput

_MASK_WORDS = re.compile(
    r"(?<![a-z])(masks?|msk|seg(mentation)?s?|labels?(Tr|Ts)?|annotations?|gt|lesions?)(?![a-z])", re.IGNORECASE
)


@dataclass(frozen=True)
class SliceSource:
    """The slices of a scan of a patient, stacked in the order of their names; see ``sources.Source``.

    The position of a slice in the patient is not known: slices are placed 1 mm apart and do not form a volume.
    """

    patient: str
    folder: Path
    slices: tuple[LabelledImage, ...]
    pixel_spacing: float | None

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
            tuple(named for labelled in self.slices for mask in labelled.masks for named in mask.named()),
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
                f"add the masks or remove the patient{unread(self.folder)}"
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
        return problems + labelled.twice(self.folder)

    def load(self) -> Scan:
        """The slices and their masks, stacked."""
        problems = self.listing().problems
        if problems:
            raise BadInput(problems[0])
        image = self._placed(
            np.stack([read_picture(self.folder / labelled.path, mask=False).pixels for labelled in self.slices])
        )
        drawn = {name: np.zeros(image.GetSize()[::-1], np.uint8) for name in sorted(self._structures())}
        for z, mask in ((z, mask) for z, labelled in enumerate(self.slices) for mask in labelled.masks):
            labels = np.rint(read_picture(self.folder / mask.path, mask=True).pixels)
            for segment in mask.drawn():
                drawn[segment.name][z] |= labels == segment.value
        annotated = tuple(z for z, labelled in enumerate(self.slices) if labelled.masks)
        notes = [note for labelled in self.slices for note in (*labelled.notes, *labelled.facts.notes)]
        notes += [note for labelled in self.slices for mask in labelled.masks for note in mask.notes()]
        return Scan(
            image,
            {name: self._placed(mask) for name, mask in drawn.items()},
            annotated=annotated,
            notes=_gathered(notes),
            apart=True,
        )

    def _placed(self, array: np.ndarray) -> sitk.Image:
        array = array.astype(
            np.uint8 if array.dtype == np.uint8 else np.int32 if array.dtype.kind in "iu" else np.float32
        )
        image = sitk.GetImageFromArray(array)
        image.SetSpacing([float(v) for v in self._spacing()])
        return image


def find_sources(
    folder: Path, options: ArchiveOptions, processes: int = 1
) -> tuple[list[SliceSource | Orphan], Grouping]:
    """A source for each scan of each patient, and where the patients are known from.

    Masks without an image are sources that cannot be loaded.

    Raises:
        BadInput: there is no image, or an option matches nothing.
    """
    images, orphans = labelled_images(folder, SLICES, options, processes, "slice", _roles_by_name)
    groups: dict[str, list[LabelledImage]] = {}
    grouping = grouped([Named(labelled.name, labelled.path) for labelled in images], "slices", options)
    for patient, labelled in zip(grouping.patients, images, strict=True):
        groups.setdefault(patient, []).append(labelled)
    sources = [
        SliceSource(patient, folder, scan, options.pixel_spacing)
        for patient, slices in sorted(groups.items(), key=lambda item: natural(item[0]))
        for scan in _scans(slices)
    ]
    return [*sources, *orphans], grouping


def _scans(slices: list[LabelledImage]) -> list[tuple[LabelledImage, ...]]:
    """The slices of a patient as one stack or, if they differ in size, a stack for each scan.

    A scan is a folder, or a name without the number at its end. If slices of one scan differ as well, the patient stays
    together, and ``SliceSource`` says which slice does not fit.
    """
    scans: dict[str, list[LabelledImage]] = {}
    for labelled in slices:
        scans.setdefault(re.sub("[0-9]+$", "", labelled.name), []).append(labelled)
    grids = [{(labelled.facts.size, labelled.facts.spacing) for labelled in scan} for scan in scans.values()]
    if len(set().union(*grids)) > 1 and all(len(grid) == 1 for grid in grids):
        return [tuple(scan) for scan in scans.values()]
    return [tuple(slices)]


def _gathered(notes: list[Note]) -> tuple[Note, ...]:
    """One note for all pictures of a patient of which the same is to be said."""
    alike: dict[tuple[Kind, str], list[Note]] = {}
    for note in notes:
        alike.setdefault((note.kind, note.what or note.text), []).append(note)
    gathered = []
    for same in alike.values():
        more = f" (and {len(same) - 1} more of this kind)" if len(same) > 1 else ""
        gathered.append(replace(same[0], text=same[0].text + more, count=sum(note.count for note in same)))
    return tuple(gathered)


def _roles_by_name(paths: list[str]) -> dict[str, bool] | None:
    """Path → whether it is a mask, if some of the paths contain a word for masks and some do not; else None."""
    roles = {path: bool(_MASK_WORDS.search(path.rpartition(".")[0])) for path in paths}
    return roles if len(set(roles.values())) == 2 else None


def _pixels(facts: Facts) -> str:
    return f"{facts.size[0]} x {facts.size[1]}"
