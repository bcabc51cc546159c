"""What the converters report to scripts, and their log (docs/scripting.md lists the keys)."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from nnunet_difflung.dataset_conversion.output.changes import REPORT
from nnunet_difflung.dataset_conversion.pipeline.archive import MANIFEST, Archive
from nnunet_difflung.dataset_conversion.pipeline.patients import Patient, anonymised_command
from nnunet_difflung.runtime.files import read_json
from nnunet_difflung.runtime.messages import open_log, report
from nnunet_difflung.runtime.modes import readable_like


def report_archive(archive: Archive, mapping: Path, written: bool) -> None:
    """Reports what ``--list`` has found.

    Args:
        archive: the archive.
        mapping: path of the mapping.
        written: whether it was written by this command.
    """
    scans = [
        {
            "patient": listing.patient,
            "size": listing.size,
            "spacing_mm": listing.spacing,
            "modality": listing.modality,
            "intensity": listing.intensity,
            "structures": listing.structures,
            "problems": listing.problems,
        }
        for listing in archive.listings
    ]
    refusal = archive.grouping.refusal
    patients = None if refusal else len({listing.patient for listing in archive.listings})
    before = [str(refusal), *refusal.details] if refusal else []
    report(kind=archive.kind, patients=patients, scans=scans, before_converting=before)
    report(remarks=[note.text for note in archive.notes], mapping=mapping, mapping_written=written)


def report_patients(dataset: str, patients: Sequence[Patient], dry_run: bool, anonymous: bool = False) -> None:
    """Reports who is to be converted; without the names in the archive if ``anonymous``."""
    rows = [
        {"patient": each.patient, "test": each.test, **({} if anonymous else {"name": each.name})} for each in patients
    ]
    report(dataset=dataset, dry_run=dry_run, patients=rows)


def report_conversion(folder: Path, archive: Archive, patients: Sequence[Patient]) -> None:
    """Reports a finished conversion, and begins the log beside the conversion's own report.

    The log is readable by nobody who cannot read the archive, and names nothing in it.

    Args:
        folder: of the dataset.
        archive: from which it was converted.
        patients: who were converted.
    """
    manifest = read_json(folder / MANIFEST)
    typed = shlex.join(anonymised_command(shlex.split(manifest["command"]), patients))
    with readable_like(archive.files(), [folder]):
        open_log(folder, typed)
    report(folder=folder, report=read_json(folder / REPORT), left_out=manifest.get("left_out", []))
