"""Options of ``difflung_convert``."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.dataset_conversion._archive import KINDS, ArchiveOptions

_DESCRIPTION = """
Makes an nnU-Net dataset of your own CT archive: DICOM series with RTSTRUCT or DICOM-SEG, NIfTI/NRRD/MHA volumes with
label maps, or PNG/TIFF slices with masks. Look first, edit the mapping that this writes, then convert:

    difflung_convert -i ARCHIVE --list --mapping map.yaml
    difflung_convert -i ARCHIVE --mapping map.yaml -d 810 --name MyCT --dry-run
    difflung_convert -i ARCHIVE --mapping map.yaml -d 810 --name MyCT --crop-lungs --spacing 1.5
    nnUNetv2_plan_and_preprocess -d 810 -c 2d --verify_dataset_integrity

Intensities stay in HU, labels go to the image through physical space, patients are kept together in the folds, and the
dataset appears only when it is complete. An interrupted conversion goes on when the same command is given again. Look
at conversion_report.png in the dataset's folder before you train.
"""


@dataclass(frozen=True)
class ConvertOptions:
    """How an archive's patients become cases.

    Attributes:
        form: ``slices`` (a case for each slice, as in the Diff-Lung paper) or ``volumes``.
        all_slices: also slices on which nothing is drawn, as long as they hold a label (derived lung counts).
        spacing: mm of square pixels to resample to; None keeps the archive's.
        size: instead of ``spacing``: pixels along the longer side.
        crop_lungs: margin in mm around the lungs' box to cut to; None keeps the whole image.
        window: lowest and highest HU to keep; None keeps all.
        rescale: slope and intercept that bring the stored values to HU; None where they are HU.
    """

    form: str = "slices"
    all_slices: bool = False
    spacing: float | None = None
    size: int | None = None
    crop_lungs: float | None = None
    window: tuple[float, float] | None = None
    rescale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.spacing is not None and self.size is not None:
            raise BadInput("--spacing and --size exclude each other; give one")
        for option, value, low, high in (("--spacing", self.spacing, 0.1, 50), ("--size", self.size, 16, 4096),
                                         ("--crop-lungs", self.crop_lungs, 0, 1000)):
            if value is not None and not low <= value <= high:
                raise BadInput(f"{option} {value:g}: expected {low:g} to {high:g}")
        if self.window is not None and not self.window[0] < self.window[1]:
            raise BadInput(f"--window {self.window[0]:g},{self.window[1]:g}: expected the lower value first")
        if self.rescale is not None and self.rescale[0] == 0:
            raise BadInput(f"--rescale 0,{self.rescale[1]:g}: a slope of 0 leaves one value; expected 1 for most CT")
        if self.all_slices and self.form == "volumes":
            raise BadInput("--all-slices belongs to --as slices; volumes hold all of them anyway")

    def as_dict(self) -> dict:
        """For the conversion's manifest."""
        return asdict(self)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(prog="difflung_convert", description=_DESCRIPTION,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-i", required=True, type=Path, metavar="ARCHIVE", help="folder with the archive; never changed")
    p.add_argument("--list", action="store_true", help="show patients, spacing, intensities and structures, and write "
                   "a first mapping (to --mapping, default difflung_mapping.yaml) unless the file is there")
    p.add_argument("--mapping", type=Path, metavar="FILE", help="YAML or JSON: which structure becomes which label")
    p.add_argument("-d", "--dataset-id", type=int, metavar="ID", help="id of the new dataset, 1 to 999")
    p.add_argument("--name", metavar="NAME", help="name behind the id, such as MyCT for Dataset810_MyCT")
    p.add_argument("--dry-run", action="store_true", help="check everything that can be checked without loading the "
                   "images, show what would be made, write nothing")
    p.add_argument("--overwrite", action="store_true", help="replace the dataset if it exists")
    p.add_argument("-np", type=int, default=2, metavar="N", help="patients converted at a time (default 2)")
    _add_archive_options(p.add_argument_group("what the archive is"))
    _add_case_options(p.add_argument_group("what becomes of it"))
    return p


def _add_archive_options(group) -> None:
    group.add_argument("--kind", choices=KINDS, help="found by the files unless there are several kinds")
    group.add_argument("--image", metavar="REGEX", help="paths of images, of volumes and slices (default: by content)")
    group.add_argument("--masks", metavar="REGEX", help="paths of label maps (default: by content)")
    group.add_argument("--patient-pattern", metavar="REGEX", help="matches a whole name that --list shows; its first "
                       "group is the patient (default: folder or file name)")
    group.add_argument("--series", metavar="SERIES", help="DICOM: the series to take where a patient has several: its "
                       "folder or its number of slices (default: the one that was drawn on)")
    group.add_argument("--pixel-spacing", type=float, metavar="MM", help="of slices, whose files hold none")
    group.add_argument("--rescale", type=_pair, metavar="SLOPE,INTERCEPT", help="brings stored values to HU where the "
                       "archive has lost them, such as --rescale 1,-1024")
    group.add_argument("--allow-missing", action="store_true", help="patients may lack structures of the mapping: they "
                       "have been looked for and are not there")


def _add_case_options(group) -> None:
    group.add_argument("--as", dest="form", choices=("slices", "volumes"), default="slices",
                       help="a case for each slice on which something is drawn, as in the Diff-Lung paper (default), "
                       "or for each volume")
    group.add_argument("--all-slices", action="store_true", help="also slices on which nothing is drawn but that show "
                       "lung")
    group.add_argument("--spacing", type=float, metavar="MM", help="resample in plane to square pixels of this size")
    group.add_argument("--size", type=int, metavar="PIXELS", help="resample in plane so that the longer side has this "
                       "many pixels")
    group.add_argument("--crop-lungs", type=float, nargs="?", const=10.0, metavar="MM",
                       help="cut each patient to the box of lungs and lesions and this margin (10 mm if no number "
                       "follows)")
    group.add_argument("--window", type=_pair, metavar="LOW,HIGH", help="clip to these HU, as in --window=-1024,600")
    group.add_argument("--test", nargs="+", default=[], metavar="PATIENT", help="patients for imagesTs/labelsTs")
    group.add_argument("--test-share", type=float, metavar="SHARE", help="instead of --test: a share of the patients, "
                       "dealt so that rare structures are on both sides")
    group.add_argument("--anonymous", action="store_true", help="call patients p001, p002, … instead of their names in "
                       "the archive (always so where DICOM patients share folders)")
    group.add_argument("--seed", type=int, default=0, help="of folds and --test-share (default 0)")


def _pair(text: str) -> tuple[float, float]:
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers with a comma between") from None
    return first, second


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Options from the command line.

    Raises:
        BadInput: options that do not fit each other.
    """
    options = parser().parse_args(arguments)
    if options.np < 1:
        raise BadInput(f"-np {options.np}: expected at least 1 process")
    if options.test and options.test_share is not None:
        raise BadInput("--test and --test-share exclude each other; give one")
    if options.test_share is not None and not 0 < options.test_share < 1:
        raise BadInput(f"--test-share {options.test_share:g}: expected a share between 0 and 1")
    if options.pixel_spacing is not None and not 0.05 <= options.pixel_spacing <= 50:
        raise BadInput(f"--pixel-spacing {options.pixel_spacing:g}: expected millimetres, 0.05 to 50")
    if not options.list:
        for option, value in (("--mapping", options.mapping), ("-d", options.dataset_id), ("--name", options.name)):
            if value is None:
                raise BadInput(f"{option} is missing; --list shows the archive and writes a first mapping, then give "
                               f"--mapping FILE -d ID --name NAME")
    return options


def archive_options(options) -> ArchiveOptions:
    """Those that say what the archive is."""
    return ArchiveOptions(options.kind, options.image, options.masks, options.patient_pattern, options.series,
                          options.pixel_spacing)


def convert_options(options) -> ConvertOptions:
    """Those that say what becomes of a patient."""
    return ConvertOptions(options.form, options.all_slices, options.spacing, options.size, options.crop_lungs,
                          options.window, options.rescale)
