"""``difflung_convert``: from a CT archive to an nnU-Net dataset, in HU and by patient."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_difflung.dataset_conversion.archive.options import KINDS, ArchiveOptions
from nnunet_difflung.dataset_conversion.output.staged_dataset import check_name
from nnunet_difflung.dataset_conversion.output.writer import dataset_name, summary, warn_of_old_preprocessing
from nnunet_difflung.dataset_conversion.pipeline.archive import (
    Archive,
    check_archive,
    convert,
    plan_patients,
    read_archive,
)
from nnunet_difflung.dataset_conversion.pipeline.listing import MAPPING, listing_table, write_first_mapping
from nnunet_difflung.dataset_conversion.pipeline.mapping import LabelMapping, read_mapping
from nnunet_difflung.dataset_conversion.pipeline.options import (
    ConvertOptions,
    add_form_option,
    add_running_options,
    add_shape_options,
    add_test_options,
    check_test_options,
)
from nnunet_difflung.dataset_conversion.pipeline.patients import Patient
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import raw_folder
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.environment import without_folder

_DESCRIPTION = """
Makes an nnU-Net dataset from your own CT archive: DICOM series with RTSTRUCT or DICOM-SEG, NIfTI/NRRD/MHA volumes with
label maps, or PNG/TIFF slices with masks. Look first, edit the mapping that this writes, then convert:

    difflung_convert -i ARCHIVE --list --mapping map.yaml
    difflung_convert -i ARCHIVE --mapping map.yaml -d 810 --name MyCT --dry-run
    difflung_convert -i ARCHIVE --mapping map.yaml -d 810 --name MyCT --crop-lungs --spacing 1.5
    nnUNetv2_plan_and_preprocess -d 810 -c 2d --verify_dataset_integrity

Intensities stay in HU, labels go to the image through physical space, patients are kept together in the folds, and the
dataset appears only when it is complete. Run the same command again to resume an interrupted conversion. Look at
conversion_report.png in the dataset's folder before you train.
"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(
        prog="difflung_convert", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("-i", required=True, type=Path, metavar="ARCHIVE", help="folder with the archive; never changed")
    p.add_argument(
        "--list",
        action="store_true",
        help="show patients, spacing, intensities and structures, and write "
        "a first mapping (to --mapping, default difflung_mapping.yaml) unless the file is there",
    )
    p.add_argument("--mapping", type=Path, metavar="FILE", help="YAML or JSON: which structure becomes which label")
    p.add_argument("-d", "--dataset-id", type=int, metavar="ID", help="id of the new dataset, 1 to 999")
    p.add_argument("--name", metavar="NAME", help="name behind the id, such as MyCT for Dataset810_MyCT")
    p.add_argument(
        "--dry-run",
        action="store_true",
        help="check everything that can be checked without loading the images, show what would be made, write nothing",
    )
    add_running_options(p)
    _add_archive_options(p.add_argument_group("what the archive is"))
    _add_case_options(p.add_argument_group("what becomes of it"))
    return p


def _add_archive_options(group) -> None:
    group.add_argument("--kind", choices=KINDS, help="found by the files unless there are several kinds")
    group.add_argument("--image", metavar="REGEX", help="paths of images, of volumes and slices (default: by content)")
    group.add_argument("--masks", metavar="REGEX", help="paths of label maps (default: by content)")
    group.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="matches a whole name that --list shows; its first group is the patient (default: folder or file name)",
    )
    group.add_argument(
        "--series",
        metavar="SERIES",
        help="DICOM: the series to take where a patient has several: its "
        "folder or its number of slices (default: the one that was drawn on)",
    )
    group.add_argument("--pixel-spacing", type=float, metavar="MM", help="of slices, whose files hold none")
    group.add_argument(
        "--rescale",
        type=_pair,
        metavar="SLOPE,INTERCEPT",
        help="brings stored values to HU where the archive has lost them, such as --rescale 1,-1024",
    )
    group.add_argument(
        "--allow-missing",
        action="store_true",
        help="patients may lack structures of the mapping: they have been looked for and are not there",
    )


def _add_case_options(group) -> None:
    add_form_option(group, "on which something is drawn")
    group.add_argument(
        "--all-slices", action="store_true", help="also slices on which nothing is drawn but that show lung"
    )
    add_shape_options(group)
    group.add_argument("--window", type=_pair, metavar="LOW,HIGH", help="clip to these HU, as in --window=-1024,600")
    add_test_options(group)
    group.add_argument(
        "--anonymous",
        action="store_true",
        help="call patients p001, p002, … instead of their names in "
        "the archive (always so where DICOM patients share folders)",
    )


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
                raise BadInput(
                    f"{option} is missing; --list shows the archive and writes a first mapping, then give "
                    f"--mapping FILE -d ID --name NAME"
                )
    return options


def archive_options(options) -> ArchiveOptions:
    """Those that say what the archive is."""
    return ArchiveOptions(
        options.kind, options.image, options.masks, options.patient_pattern, options.series, options.pixel_spacing
    )


def convert_options(options) -> ConvertOptions:
    """Those that say what becomes of a patient."""
    return ConvertOptions(
        options.form,
        options.all_slices,
        options.spacing,
        options.size,
        options.crop_lungs,
        options.window,
        options.rescale,
    )


def _show(archive: Archive, mapping: Path) -> None:
    print(listing_table(archive.kind, archive.listings))
    if write_first_mapping(mapping, archive.listings):
        print(f"\n{mapping} is a first mapping: edit it, then give it with --mapping, and -d ID --name NAME")
    else:
        read_mapping(mapping).check(
            {name for listing in archive.listings for name in listing.structures}, str(archive.folder)
        )
        print(f"\n{mapping} was there already and was left as it is; it covers every structure.")


def _plan_text(
    archive: Archive,
    mapping: LabelMapping,
    patients: Sequence[Patient],
    full_name: str,
    options: ConvertOptions,
    anonymous: bool,
) -> str:
    test = [patient.patient for patient in patients if patient.test]
    whence = "" if anonymous else f" of {archive.folder.name}"
    named = [p.patient if anonymous else f"{p.name} → {p.patient}" for p in patients[:10]]
    lines = [
        f"{full_name}: {len(patients)} patients{whence} ({archive.kind}), as {options.form}",
        "labels: " + ", ".join(f"{name} = {value}" for name, value in mapping.labels.items()),
        f"patients: {', '.join(named)}{', …' * (len(patients) > 10)}",
        f"test: {', '.join(test) or 'none'}",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    options = parse(arguments)
    if options.list:
        _show(read_archive(options.i, archive_options(options), options.np), options.mapping or Path(MAPPING))
        return 0
    full_name, mapping = dataset_name(options.dataset_id, options.name), read_mapping(options.mapping)
    chosen = convert_options(options)
    if chosen.crop_lungs is not None and mapping.normal is None:
        raise BadInput("--crop-lungs needs a label for normal lung, and the mapping has none; add one, or leave it out")
    check_name(full_name, options.overwrite, untouched=options.dry_run)
    archive = read_archive(options.i, archive_options(options), options.np)
    check_archive(archive, mapping, options.allow_missing)
    patients = plan_patients(archive, chosen, options.anonymous, options.test, options.test_share, options.seed)
    print(_plan_text(archive, mapping, patients, full_name, chosen, options.anonymous))
    if options.dry_run:
        print("Dry run: nothing was written.")
        return 0
    words = [without_folder(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    records = convert(
        archive,
        mapping,
        chosen,
        patients,
        full_name,
        options.np,
        options.overwrite,
        options.seed,
        said=["difflung_convert", *words],
        anonymous=options.anonymous,
    )
    print(summary(records, mapping.labels))
    print(f"Look at {raw_folder(full_name) / 'conversion_report.png'} before you go on.")
    print(warn_of_old_preprocessing(full_name) or f"Next: nnUNetv2_plan_and_preprocess -d {options.dataset_id} -c 2d")
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
