"""``difflung_convert``: from a CT archive to an nnU-Net dataset, in HU and by patient."""
from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from nnunet_difflung.command_line import BadInput, command, nnunet_folder, without_folder
from nnunet_difflung.dataset_conversion._convert_archive import (
    Archive,
    check_archive,
    convert,
    plan_patients,
    read_archive,
)
from nnunet_difflung.dataset_conversion._patient_names import Patient
from nnunet_difflung.dataset_conversion.case_options import ConvertOptions
from nnunet_difflung.dataset_conversion.convert_options import archive_options, convert_options, parse
from nnunet_difflung.dataset_conversion.list_archive import MAPPING, listing_table, write_first_mapping
from nnunet_difflung.dataset_conversion.mapping import LabelMapping
from nnunet_difflung.dataset_conversion.mapping_file import read_mapping
from nnunet_difflung.dataset_conversion.nnunet_format import dataset_name, summary, warn_of_old_preprocessing


def _show(archive: Archive, mapping: Path) -> None:
    print(listing_table(archive.kind, archive.listings))
    if write_first_mapping(mapping, archive.listings):
        print(f"\n{mapping} is a first mapping: edit it, then give it with --mapping, and -d ID --name NAME")
    else:
        read_mapping(mapping).check({name for one in archive.listings for name in one.structures}, str(archive.folder))
        print(f"\n{mapping} was there already and was left as it is; it covers every structure.")


def _plan_text(archive: Archive, mapping: LabelMapping, patients: Sequence[Patient], full_name: str,
               options: ConvertOptions, anonymous: bool) -> str:
    test = [patient.patient for patient in patients if patient.test]
    whence = "" if anonymous else f" of {archive.folder.name}"
    named = [p.patient if anonymous else f"{p.name} → {p.patient}" for p in patients[:10]]
    lines = [f"{full_name}: {len(patients)} patients{whence} ({archive.kind}), as {options.form}",
             "labels: " + ", ".join(f"{name} = {value}" for name, value in mapping.labels.items()),
             f"patients: {', '.join(named)}{', …' * (len(patients) > 10)}",
             f"test: {', '.join(test) or 'none'}"]
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
    target = Path(nnunet_folder("nnUNet_raw")) / full_name
    if target.exists() and not options.overwrite:
        raise BadInput(f"{target} exists already; give --overwrite to replace it or another -d")
    archive = read_archive(options.i, archive_options(options), options.np)
    check_archive(archive, mapping, options.allow_missing)
    patients = plan_patients(archive, chosen, options.anonymous, options.test, options.test_share, options.seed)
    print(_plan_text(archive, mapping, patients, full_name, chosen, options.anonymous))
    if options.dry_run:
        print("Dry run: nothing was written.")
        return 0
    words = [without_folder(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    records = convert(archive, mapping, chosen, patients, full_name, options.np, options.overwrite, options.seed,
                      said=["difflung_convert", *words], anonymous=options.anonymous)
    print(summary(records, mapping.labels))
    print(f"Look at {target / 'conversion_report.png'} before you go on.")
    print(warn_of_old_preprocessing(full_name) or f"Next: nnUNetv2_plan_and_preprocess -d {options.dataset_id} -c 2d")
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
