"""``difflung_convert``: converts a CT archive to an nnU-Net dataset."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_difflung.dataset_conversion.accept import add_accept_option
from nnunet_difflung.dataset_conversion.archive.options import KINDS, ArchiveOptions
from nnunet_difflung.dataset_conversion.output.changes import changes_text
from nnunet_difflung.dataset_conversion.output.staged_dataset import check_name
from nnunet_difflung.dataset_conversion.output.writer import dataset_name, summary, what_next
from nnunet_difflung.dataset_conversion.pipeline.archive import (
    MANIFEST,
    Archive,
    check_archive,
    convert,
    plan_patients,
    read_archive,
    without_faulty,
)
from nnunet_difflung.dataset_conversion.pipeline.found import report_archive, report_conversion, report_patients
from nnunet_difflung.dataset_conversion.pipeline.leaving_out import (
    add_leaving_out_options,
    faults,
    left_out_text,
)
from nnunet_difflung.dataset_conversion.pipeline.listing import MAPPING, listing_table, write_first_mapping
from nnunet_difflung.dataset_conversion.pipeline.mapping import LabelMapping, read_mapping
from nnunet_difflung.dataset_conversion.pipeline.options import (
    ConvertOptions,
    add_form_option,
    add_patient_options,
    add_running_options,
    add_shape_options,
    add_test_options,
    check_test_options,
)
from nnunet_difflung.dataset_conversion.pipeline.patients import Patient
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import raw_folder
from nnunet_difflung.runtime.arguments import CommandParser
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.messages import say, stage
from nnunet_difflung.runtime.modes import readable_like
from nnunet_difflung.runtime.wording import collapsed, counted, quoted, without_folder

_DESCRIPTION = """
Converts your own CT archive to an nnU-Net dataset: DICOM series with RTSTRUCT or DICOM-SEG, NIfTI/NRRD/MHA volumes
with label maps, or PNG/TIFF/BMP slices with masks. List the archive, edit the mapping that is written, then convert:

    difflung_convert -i ARCHIVE --list --mapping map.yaml
    difflung_convert -i ARCHIVE --mapping map.yaml -d 810 --name MyCT --dry-run
    difflung_convert -i ARCHIVE --mapping map.yaml -d 810 --name MyCT --crop-lungs --spacing 1.5
    difflung_augment -d 810 --dry-run

Intensities stay in HU, labels are resampled to the image through physical space, and all cases of a patient are in the
same fold. Where files and folders do not tell who the patients are, --patients or --patient-pattern has to. The dataset
appears only when it is complete. Run the same command again to resume an interrupted conversion.
Check conversion_report.html (or .png) in the dataset's folder before you train.
"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = CommandParser(
        prog="difflung_convert", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "-i", required=True, type=Path, metavar="ARCHIVE", help="folder with the archive; it is never changed"
    )
    p.add_argument(
        "--list",
        action="store_true",
        help="show patients, spacing, intensities and structures, and write a first mapping (to --mapping, default "
        "difflung_mapping.yaml) unless the file exists",
    )
    p.add_argument(
        "--mapping", type=Path, metavar="FILE", help="YAML or JSON file that says which structures become which label"
    )
    p.add_argument("-d", "--dataset-id", type=int, metavar="ID", help="id of the new dataset, 1 to 999")
    p.add_argument("--name", metavar="NAME", help="name of the dataset after its id, such as MyCT for Dataset810_MyCT")
    p.add_argument(
        "--dry-run",
        action="store_true",
        help="check what can be checked without loading the images and show what would be converted, but write nothing",
    )
    add_running_options(p)
    _add_archive_options(p.add_argument_group("how to read the archive"))
    _add_case_options(p.add_argument_group("how to convert it"))
    return p


def _add_archive_options(group) -> None:
    group.add_argument(
        "--kind",
        choices=KINDS,
        help="kind of archive (default: found out from the files; needed if there are files of several kinds)",
    )
    group.add_argument(
        "--image",
        metavar="REGEX",
        help="volumes and slices: matches the paths of images (default: found out by content)",
    )
    group.add_argument(
        "--masks",
        metavar="REGEX",
        help="volumes and slices: matches the paths of label maps (default: found out by content)",
    )
    add_patient_options(group)
    group.add_argument(
        "--series",
        nargs="+",
        action="extend",
        default=[],
        metavar="SERIES",
        help="DICOM: the series to take where a patient has several, by its folder, its number of slices or one of its "
        "files, such as thin, 'CT*B70f*' or 120; of several values, the first that fits a patient counts. p1=thin is "
        "for the patient p1 alone. Patients with one series are not affected (default: each series that was drawn on)",
    )
    group.add_argument(
        "--pixel-spacing", type=float, metavar="MM", help="slices: pixel size in mm, if the files do not give it"
    )
    group.add_argument(
        "--rescale",
        type=_pair,
        metavar="SLOPE,INTERCEPT",
        help="converts stored values to HU if the archive has lost the rescaling, such as --rescale 1,-1024",
    )
    add_accept_option(group)
    add_leaving_out_options(group)
    group.add_argument(
        "--allow-missing",
        action="store_true",
        help="accept patients who lack structures of the mapping, because they were examined and do not have them",
    )


def _add_case_options(group) -> None:
    add_form_option(group, "with drawn structures")
    group.add_argument(
        "--all-slices", action="store_true", help="also write slices without drawn structures that show lung"
    )
    add_shape_options(group)
    group.add_argument(
        "--window", type=_pair, metavar="LOW,HIGH", help="clip intensities to these HU, such as --window=-1024,600"
    )
    add_test_options(group)
    group.add_argument(
        "--anonymous",
        action="store_true",
        help="name patients p001, p002, … instead of their names in the archive (always the case if DICOM patients "
        "share folders)",
    )


def _pair(text: str) -> tuple[float, float]:
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected two numbers separated by a comma") from None
    return first, second


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses and checks the options.

    Raises:
        BadInput: an option is missing, out of range, or excludes another one.
    """
    options = parser().parse_args(arguments)
    if options.np < 1:
        raise BadInput(f"-np {options.np}: expected at least 1 process")
    check_test_options(options)
    if options.pixel_spacing is not None and not 0.05 <= options.pixel_spacing <= 50:
        raise BadInput(f"--pixel-spacing {options.pixel_spacing:g}: expected a value in mm from 0.05 to 50")
    if not options.list:
        for option, value in (("--mapping", options.mapping), ("-d", options.dataset_id), ("--name", options.name)):
            if value is None:
                raise BadInput(
                    f"{option} is missing; run the command with --list to write a first mapping, then convert with "
                    f"--mapping FILE -d ID --name NAME"
                )
    return options


def archive_options(options) -> ArchiveOptions:
    """The options that say how to read the archive."""
    return ArchiveOptions(
        options.kind,
        options.image,
        options.masks,
        options.patient_pattern,
        options.patients,
        tuple(options.series),
        options.pixel_spacing,
        frozenset(options.accept),
        tuple(options.exclude),
    )


def convert_options(options) -> ConvertOptions:
    """The options that say how patients become cases."""
    return ConvertOptions(
        options.form,
        options.all_slices,
        options.spacing,
        options.size,
        options.crop_lungs,
        options.window,
        options.rescale,
        frozenset(options.accept),
    )


def _show(archive: Archive, mapping: Path) -> None:
    # before the table, since its reader may leave early (head); without structures, the table is shown before the error
    drawn = any(listing.structures for listing in archive.listings)
    with readable_like(archive.files(), [mapping.parent]):
        written = drawn and write_first_mapping(mapping, archive.listings)
    unknown = archive.grouping.refusal
    if unknown is None:
        number = len({listing.patient for listing in archive.listings})
        say(listing_table(f"{counted(number, 'patient')}, {archive.kind}", archive.listings), log=False)
        say(f"{archive.counted()}, such as {archive.grouping.examples()}", log=False)
    else:
        say(listing_table(archive.counted(), archive.listings), log=False)
        say("\n  ".join([f"\nBefore you convert: {unknown}", *unknown.details]), log=False)
    for line in collapsed(f"Note: {note.text}" for note in archive.notes):
        say(line, log=False)
    if of_patients := faults(archive.listings):
        number, total = len(of_patients), archive.patients
        say(f"{number} of {total} patients cannot be converted as they are; --exclude or --skip-faulty leaves them out")
    if not drawn:
        with readable_like(archive.files(), [mapping.parent]):
            written = write_first_mapping(mapping, archive.listings)
    report_archive(archive, mapping, written)
    if written:
        say(f"\n{mapping} is a first mapping: edit it, then convert with --mapping {quoted(mapping)} -d ID --name NAME")
    else:
        read_mapping(mapping).check(
            {name for listing in archive.listings for name in listing.structures}, str(archive.folder)
        )
        say(f"\n{mapping} already exists and was not changed; it covers every structure.")


def _plan_text(
    archive: Archive,
    mapping: LabelMapping,
    patients: Sequence[Patient],
    full_name: str,
    options: ConvertOptions,
    anonymous: bool,
) -> str:
    test = [patient.patient for patient in patients if patient.test]
    folder = "" if anonymous else f" of {archive.folder.name}"
    names = [patient.patient if anonymous else f"{patient.name} → {patient.patient}" for patient in patients[:10]]
    if len(patients) > 10:
        names.append("…")
    lines = [
        f"{full_name}: {counted(len(patients), 'patient')}{folder} ({archive.kind}), as {options.form}",
        archive.counted(anonymous),
        "labels: " + ", ".join(f"{name} = {value}" for name, value in mapping.labels.items()),
        f"patients: {', '.join(names)}",
        f"test patients: {', '.join(test) or 'none'}",
    ]
    if not anonymous:
        lines += collapsed(f"Note: {note.text}" for note in archive.notes)
    if archive.left_out:
        lines.append(f"{len(archive.left_out)} of {len(patients) + len(archive.left_out)} patients are left out.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = parse(arguments)
    if options.list:
        _show(read_archive(options.i, archive_options(options), options.np), options.mapping or Path(MAPPING))
        return 0
    full_name, mapping = dataset_name(options.dataset_id, options.name), read_mapping(options.mapping)
    conversion = convert_options(options)
    if conversion.crop_lungs is not None and mapping.normal is None:
        raise BadInput(
            "--crop-lungs needs a label for normal lung, but the mapping has none; add one, or remove --crop-lungs"
        )
    check_name(full_name, options.overwrite, untouched=options.dry_run)
    with stage("reading the archive"):
        archive = read_archive(options.i, archive_options(options), options.np)
    if options.skip_faulty and (archive.kind != "slices" or archive.grouping.refusal is None):
        archive = without_faulty(archive)
    check_archive(archive, mapping, options.allow_missing)
    patients = plan_patients(archive, conversion, options.anonymous, options.test, options.test_share, options.seed)
    say(_plan_text(archive, mapping, patients, full_name, conversion, options.anonymous), log=False)
    report_patients(full_name, patients, options.dry_run, options.anonymous)
    if options.dry_run:
        for line in collapsed(f"  {patient.note(options.anonymous).text}" for patient in archive.left_out):
            say(line, log=False)
        say("Dry run: nothing was written.")
        return 0
    words = [without_folder(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    with stage("converting", of=counted(len(patients), "patient")):
        records = convert(
            archive,
            mapping,
            conversion,
            patients,
            full_name,
            options.np,
            options.overwrite,
            options.seed,
            command=["difflung_convert", *words],
            anonymous=options.anonymous,
            skip_faulty=options.skip_faulty,
        )
    report_conversion(raw_folder(full_name), archive, patients)
    say(archive.counted(options.anonymous), log=False)
    say(summary(records, mapping.labels))
    say(changes_text(raw_folder(full_name)), log=False)
    say(f"Check {raw_folder(full_name) / 'conversion_report.html'} (or .png) before you continue.")
    say(what_next(full_name, options.dataset_id))
    if left_out := left_out_text(raw_folder(full_name) / MANIFEST):
        say(left_out.rstrip(), log=False)
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
