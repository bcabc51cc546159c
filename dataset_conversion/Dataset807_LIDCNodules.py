"""Converts cut-outs around the lung nodules of LIDC-IDRI to an nnU-Net dataset.

LIDC-IDRI: Armato et al., Medical Physics 2011 (10.1118/1.3528204; TCIA 10.7937/K9/TCIA.2015.LO9QL9SX, CC BY 3.0). The
cut-outs are published with the repository ct-slicing (github.com/PabloLION/ct-slicing, data/VOIs) as
``image/LIDC-IDRI-0001_R_1.nii.gz`` and ``nodule_mask/LIDC-IDRI-0001_R_1.nii.gz``: patient, nodule. FOLDER holds these
two folders, and the ratings of the nodules as ``nodules.csv`` with the columns patient, nodule, texture (or
patient_id, nodule_id, Texture_value): save MetadatabyNoduleMaxVoting.xlsx of the repository as CSV.

Texture 1 to 3 (non-solid and part-solid) becomes ground_glass, 4 and 5 solid_nodule. Nobody drew the lung: it is found
by density and thickness, with its vessels, and is marked as derived; chest wall, mediastinum and diaphragm are
background. Values are HU, resampled in plane to one pixel size with a cubic kernel. Each nodule lies in the middle of
its cut-out, which would tell where it is: a smaller window is cut out of each slice (of each volume with --as volumes)
at a random place that depends on nothing but the id of the case. Slices above and below a nodule are cases without
one. The lung of a cut-out is not searched for other nodules: those that fewer readers drew are in it as normal lung.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_difflung.dataset_conversion.files.volume_files import read_volume
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.dataset_conversion.public.sets import FileSource, MaskOf, PublicSet, below, parser, run
from nnunet_difflung.dataset_conversion.sources import Listing, Scan
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.console import command

if TYPE_CHECKING:
    import SimpleITK as sitk

MAPPING = {
    "labels": {"normal_lung": ["lungs"], "solid_nodule": ["solid_nodule"], "ground_glass": ["ground_glass"]},
}
ABOUT = {
    "description": "Cut-outs around the lung nodules of LIDC-IDRI; the lung is derived, not drawn",
    "reference": "Armato et al., Medical Physics 2011, 10.1118/1.3528204; cut-outs: github.com/PabloLION/ct-slicing",
    "license": "CC BY 3.0",
}
TABLES = ("nodules.csv", "MetadatabyNoduleMaxVoting.csv")
COLUMNS = {
    "patient": ("patient", "patient_id"),
    "nodule": ("nodule", "nodule_id"),
    "texture": ("texture", "Texture_value"),
}
NAME = re.compile(r"(LIDC-IDRI-\d{4})_R_(\d+)")
SPACING = 0.7  # mm; the median of the cut-outs
WINDOW = 20.0  # mm
APART = 2.5  # mm; the most usual distance of slices
LEAST = 0.25  # share of normal lung in a slice without a nodule


@dataclass(frozen=True)
class NoduleSource(FileSource):
    """The cut-out around a nodule; see ``FileSource``.

    Attributes:
        problem: why the cut-out cannot be converted; ``""`` if it can.
        near: masks of the patient's other nodules, which may reach into this cut-out.
    """

    problem: str = ""
    near: tuple[MaskOf, ...] = ()

    def listing(self) -> Listing:
        """See ``FileSource``; a nodule without a file or a rating is a problem of its patient."""
        if self.problem:
            return Listing(self.patient, (), (0, 0, 0), (0.0, 0.0, 0.0), "CT", (0.0, 0.0), (), (self.problem,))
        return super().listing()

    def load(self) -> Scan:
        """Image, nodules and the lung."""
        import SimpleITK as sitk

        from nnunet_difflung.dataset_conversion.imaging.cutout_lungs import cutout_lungs
        from nnunet_difflung.dataset_conversion.imaging.geometry import image_like

        scan = super().load()
        _check(scan, self.image, self.masks[0])
        structures, notes = dict(scan.structures), list(scan.notes)
        for mask in self.near:
            notes += _add(structures, mask, scan.image)
        nodules = np.logical_or.reduce([sitk.GetArrayViewFromImage(mask) > 0 for mask in structures.values()])
        lungs = cutout_lungs(sitk.GetArrayViewFromImage(scan.image), nodules, scan.image.GetSpacing()[::-1])
        what = "lungs found by density and thickness, not drawn"
        notes.append(Note(f"{what}: {100 * lungs.mean():.0f} % of {self.image.name}", Kind.GUESSED, what=what))
        structures["lungs"] = image_like(lungs.astype(np.uint8), scan.image)
        # every nodule is rated: what a cut-out lacks is known not to be there, not merely not drawn
        for name in ("solid_nodule", "ground_glass"):
            structures.setdefault(name, image_like(np.zeros(lungs.shape, np.uint8), scan.image))
        return replace(scan, structures=structures, notes=tuple(notes), derived=("lungs",))


def _check(scan: Scan, image: Path, mask: MaskOf) -> None:
    """Checks that a mask lies on the grid of its image, and is not empty.

    Raises:
        BadInput: it does not, or is.
    """
    import SimpleITK as sitk

    from nnunet_difflung.dataset_conversion.imaging.geometry import same_grid

    drawn = scan.structures[mask.name]
    if not same_grid(drawn, scan.image):
        raise BadInput(
            f"{mask.path}: size {drawn.GetSize()}, spacing or position differ from {image} ({scan.image.GetSize()}); "
            f"expected a mask on the grid of the image: download both again"
        )
    if not sitk.GetArrayViewFromImage(drawn).any():
        raise BadInput(f"{mask.path}: the mask is empty; expected the nodule of this cut-out: download it again")


def _add(structures: dict[str, sitk.Image], mask: MaskOf, image: sitk.Image) -> list[Note]:
    """Adds another nodule of the patient to the structures of a cut-out, as far as it reaches into it."""
    import SimpleITK as sitk

    from nnunet_difflung.dataset_conversion.imaging.geometry import image_like, on_grid

    inside = on_grid(read_volume(mask.path), image)
    if not inside.any():
        return []
    drawn = structures.get(mask.name)
    both = inside if drawn is None else inside | sitk.GetArrayViewFromImage(drawn)
    structures[mask.name] = image_like(both.astype(np.uint8), image)
    what = "other nodules of the patient that reach into a cut-out, drawn there as well"
    return [Note(f"{what}: {mask.path.name}", Kind.MERGED, what=what)]


def find(folder: Path) -> list[NoduleSource]:
    """The nodules that have a file or a rating.

    Raises:
        BadInput: a folder or the table is missing, or the table cannot be read.
    """
    images, masks = (_files(below(folder, name)) for name in ("image", "nodule_mask"))
    textures = _textures(folder)
    names = sorted({*images, *masks, *textures}, key=lambda name: (name[:14], int(name[17:])))
    if not names:
        raise BadInput(f"{folder}: there is no nodule in the table and no file in image and nodule_mask; unpack them")
    sources = [_source(folder, name, images, masks, textures) for name in names]
    of_patient: dict[str, list[NoduleSource]] = {}
    for source in sources:
        of_patient.setdefault(source.patient, []).append(source)
    return [replace(source, near=tuple(_others(source, of_patient[source.patient]))) for source in sources]


def _others(source: NoduleSource, of_patient: Sequence[NoduleSource]) -> Iterable[MaskOf]:
    return (mask for other in of_patient if other.image != source.image for mask in other.masks)


def _source(
    folder: Path, name: str, images: dict[str, Path], masks: dict[str, Path], textures: dict[str, str]
) -> NoduleSource:
    problem = ""
    for part, files in (("image", images), ("nodule_mask", masks)):
        if name not in files:
            problem = f"{folder / part / (name + '.nii.gz')} is missing: download it again, or remove the nodule's row"
    texture = textures.get(name)
    if texture is None:
        problem = f"{folder / TABLES[0]} has no row for {name}, which has files; add the row, or remove the files"
    elif texture not in ("1", "2", "3", "4", "5"):
        problem = f"{folder / TABLES[0]}: {name} has the texture {texture!r}; expected 1 to 5: correct the row"
    if problem:
        return NoduleSource(name[:14], folder, Path(name), (), problem=problem)
    label = "ground_glass" if texture in ("1", "2", "3") else "solid_nodule"
    return NoduleSource(name[:14], folder, images[name], (MaskOf(label, masks[name]),), False)


def _files(folder: Path) -> dict[str, Path]:
    """The cut-outs in a folder by name.

    Raises:
        BadInput: a file is not named as published.
    """
    files = {}
    for path in sorted(folder.glob("[!.]*.nii*")):
        name = path.name.split(".nii")[0]
        if not NAME.fullmatch(name):
            raise BadInput(f"{path}: expected a name such as LIDC-IDRI-0001_R_1.nii.gz; rename or remove the file")
        files[name] = path
    return files


def _textures(folder: Path) -> dict[str, str]:
    """Name of a cut-out → texture, as the table gives it.

    Raises:
        BadInput: the table is missing, lacks a column, or has a nodule twice.
    """
    path = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if path is None:
        raise BadInput(f"{folder / TABLES[0]} is missing; save the repository's table of nodules as CSV there")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        found = {}
        for column, choices in COLUMNS.items():
            name = next((choice for choice in choices if choice in (reader.fieldnames or ())), None)
            if name is None:
                raise BadInput(
                    f"{path}: there is no column {' or '.join(choices)}; expected columns for patient, nodule and "
                    f"texture, separated by commas: correct the table"
                )
            found[column] = name
        textures: dict[str, str] = {}
        for line, row in enumerate(reader, start=2):
            nodule = f"{row[found['patient']]}_R_{row[found['nodule']]}"
            if not NAME.fullmatch(nodule) or nodule in textures:
                fault = "is there twice" if nodule in textures else "is not a nodule such as LIDC-IDRI-0001, 1"
                raise BadInput(f"{path}, line {line}: {nodule} {fault}; correct the table")
            textures[nodule] = (row[found["texture"]] or "").strip()
    return textures


PUBLIC = PublicSet(
    "Dataset807_LIDCNodules",
    807,
    "LIDCNodules",
    MAPPING,
    find,
    crop=False,
    patients="the names of the files, LIDC-IDRI-NNNN",
    about=ABOUT,
)


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """Console entry point."""
    p = parser(PUBLIC, __doc__ or "")
    p.add_argument(
        "--window",
        type=float,
        default=WINDOW,
        metavar="MM",
        help="side of the window that is cut out of each case at a random place (default: %(default)g); larger around "
        "large nodules, and never larger than the cut-out",
    )
    p.add_argument(
        "--apart",
        type=float,
        default=APART,
        metavar="MM",
        help="with --as slices: of slices that lie closer together than this, every second, third, … is taken, so that "
        "thin slices do not count more than thick ones (default: %(default)g; 0 takes all slices)",
    )
    options = p.parse_args(arguments)
    for option, value, low, high in (("--window", options.window, 5, 1000), ("--apart", options.apart, 0, 100)):
        if not low <= value <= high:
            raise BadInput(f"{option} {value:g}: expected a value in mm from {low} to {high}")
    if options.spacing is None and options.size is None:
        options.spacing = SPACING
    return run(
        PUBLIC,
        options,
        arguments,
        kernel="cubic",
        apart=options.apart or None,
        random_window=options.window,
        least_lung=LEAST,
    )


if __name__ == "__main__":
    main()
