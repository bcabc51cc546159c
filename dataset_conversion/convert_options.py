"""Options of ``difflung_convert``."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.dataset_conversion._archive_options import KINDS, ArchiveOptions
from nnunet_difflung.dataset_conversion.case_options import (
    ConvertOptions,
    add_form_option,
    add_running_options,
    add_shape_options,
    add_test_options,
    check_test_options,
)

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
    add_running_options(p)
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
    add_form_option(group, "on which something is drawn")
    group.add_argument("--all-slices", action="store_true", help="also slices on which nothing is drawn but that show "
                       "lung")
    add_shape_options(group)
    group.add_argument("--window", type=_pair, metavar="LOW,HIGH", help="clip to these HU, as in --window=-1024,600")
    add_test_options(group)
    group.add_argument("--anonymous", action="store_true", help="call patients p001, p002, … instead of their names in "
                       "the archive (always so where DICOM patients share folders)")


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
    check_test_options(options)
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
