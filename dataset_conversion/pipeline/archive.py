"""An archive → a dataset: what is in it, whether it can be converted, and the conversion of all its patients."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from nnunet_difflung import __version__
from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions
from nnunet_difflung.dataset_conversion.case import IGNORE, CaseRecord
from nnunet_difflung.dataset_conversion.output.report import report_of_dataset
from nnunet_difflung.dataset_conversion.output.staged_dataset import (
    finished_patients,
    keep_only,
    note_patient,
    staged_dataset,
)
from nnunet_difflung.dataset_conversion.output.writer import finish_dataset
from nnunet_difflung.dataset_conversion.pipeline.mapping import LabelMapping
from nnunet_difflung.dataset_conversion.pipeline.options import ConvertOptions
from nnunet_difflung.dataset_conversion.pipeline.patients import (
    Patient,
    choose_test,
    name_patients,
    state_of,
    typed,
    without_files,
)
from nnunet_difflung.dataset_conversion.sources import Listing, Source
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.files import json_bytes, write_json
from nnunet_difflung.runtime.parallel import in_parallel

MANIFEST = "difflung_conversion.json"


@dataclass(frozen=True)
class Archive:
    """What was found in a folder: its kind, and each patient's scans with what can be said of them cheaply."""

    folder: Path
    kind: str
    sources: tuple[Source, ...]
    listings: tuple[Listing, ...]


def read_archive(folder: Path, options: ArchiveOptions, processes: int = 1) -> Archive:
    """Finds the patients of an archive and lists them.

    Raises:
        BadInput: no such folder, nothing in it, or options that do not fit.
    """
    from nnunet_difflung.dataset_conversion.archive.find import find_patients

    kind, sources = find_patients(folder, options, processes)
    return listed_archive(folder, kind, sources, processes)


def listed_archive(folder: Path, kind: str, sources: Sequence[Source], processes: int = 1) -> Archive:
    """An archive whose patients are known, with their listings."""
    return Archive(folder, kind, tuple(sources), tuple(in_parallel(_listing, sources, processes, "patients")))


def _listing(source: Source) -> Listing:
    return source.listing()


def check_archive(archive: Archive, mapping: LabelMapping, allow_missing: bool) -> None:
    """Whether every patient can be converted with this mapping, as far as headers tell.

    Raises:
        BadInput: the first patient's problem, structures that the mapping does not know, or labels that patients lack.
    """
    check_readable(archive)
    mapping.check({name for listing in archive.listings for name in listing.structures}, str(archive.folder))
    lacking = []
    for rule in mapping.rules:
        without = sorted(
            {listing.patient for listing in archive.listings}
            - {
                listing.patient
                for listing in archive.listings
                if any(rule.matches(name) for name in listing.structures)
            }
        )
        if rule.structures and without and rule.label != IGNORE:
            lacking.append(f"{rule.label} in {', '.join(without[:8])}{', …' if len(without) > 8 else ''}")
    if lacking and not allow_missing:
        raise BadInput(
            f"{archive.folder}: nothing is drawn for {'; '.join(lacking)}; correct the mapping, add what is "
            f"missing, or give --allow-missing if they were searched for it and have none"
        )


def check_readable(archive: Archive) -> None:
    """Whether nothing is known that would stop a patient's conversion.

    Raises:
        BadInput: the first patient's first problem.
    """
    damaged = [listing for listing in archive.listings if listing.problems]
    if damaged:
        raise BadInput(
            damaged[0].problems[0] + ("" if len(damaged) == 1 else f" ({len(damaged)} patients have problems)")
        )


def plan_patients(
    archive: Archive, options: ConvertOptions, anonymous: bool, test: Sequence[str], test_share: float | None, seed: int
) -> list[Patient]:
    """Patients with ids, those of the test part marked."""
    pairs = [(source.patient, source) for source in archive.sources]
    patients = name_patients(pairs, options.form == "volumes", anonymous)
    structures: dict[str, set[str]] = {patient.name: set() for patient in patients}
    for listing in archive.listings:
        structures[listing.patient] |= set(listing.structures)
    return choose_test(patients, test, test_share, structures, seed)


def convert(
    archive: Archive,
    mapping: LabelMapping,
    options: ConvertOptions,
    patients: Sequence[Patient],
    full_name: str,
    processes: int = 2,
    overwrite: bool = False,
    seed: int = 0,
    verify: bool = True,
    said: Sequence[str] = (),
    anonymous: bool = False,
    about: Mapping[str, str] | None = None,
) -> list[CaseRecord]:
    """Writes ``$nnUNet_raw/<full_name>``; patients that an interrupted call has finished are not converted again.

    Args:
        archive: what is converted.
        mapping: structures → labels; checked by ``check_archive``.
        options: how.
        patients: as of ``plan_patients``.
        full_name: ``DatasetXXX_Name``.
        processes: patients at a time; each worker holds one of them.
        overwrite: replace a dataset of this name.
        seed: of the folds.
        verify: let nnU-Net check the result.
        said: words of the command, for the conversion's manifest.
        anonymous: names of patients and files stay out of it.
        about: entries of ``dataset.json``, such as ``description``, ``reference`` and ``license``.

    Returns:
        A record of every case.

    Raises:
        BadInput: a patient that cannot be converted, or patients whose intensities are of different kinds; no dataset
            is written then.
    """
    what = [__version__, options.as_dict(), asdict(mapping), str(archive.folder.resolve())]
    key = hashlib.sha256(json_bytes(what)).hexdigest()
    with staged_dataset(full_name, overwrite, key) as folder:
        work = partial(_one_patient, mapping=mapping, options=options, folder=folder)
        keep_only(folder, _unchanged(folder, patients))
        done: dict[str, dict] = {}
        for patient, content in zip(patients, in_parallel(work, patients, processes, "patients"), strict=True):
            done[patient.patient] = content
            _check_channel(done, patients, archive)
        records = [
            CaseRecord(**{**row, "voxels": tuple(row["voxels"])})
            for content in done.values()
            for row in content["records"]
        ]
        channel = next(iter(done.values()))["channel"]
        finish_dataset(
            folder,
            records,
            mapping.labels,
            [channel],
            seed,
            verify,
            **{
                "name": full_name,
                "description": f"converted from {archive.kind} by difflung_convert",
                **(about or {}),
            },
        )
        derived = sorted({name for content in done.values() for name in content["derived"]})
        notes = {name: without_files(content) if anonymous else content["notes"] for name, content in done.items()}
        report_of_dataset(folder, records, mapping.labels, channel, processes, derived, notes)
        hidden = {"records", "stamp", *(["files"] if anonymous else [])}
        write_json(
            folder / MANIFEST,
            {
                "format": 1,
                "command": shlex.join(typed(said, patients) if anonymous else said),
                "kind": archive.kind,
                "channel": channel,
                "options": options.as_dict(),
                "mapping": asdict(mapping),
                "derived": derived,
                "seed": seed,
                "patients": {
                    name: {k: v for k, v in content.items() if k not in hidden}
                    | {"notes": notes[name], "cases": [row["case_id"] for row in content["records"]]}
                    for name, content in done.items()
                },
            },
        )
    return records


def _one_patient(patient: Patient, mapping: LabelMapping, options: ConvertOptions, folder: Path) -> dict:
    from nnunet_difflung.dataset_conversion.pipeline.patient import convert_patient

    note = finished_patients(folder).get(patient.patient)
    if note is not None:
        return note
    state = state_of(patient)
    records, about = convert_patient(patient, mapping, options, folder)
    content = {**about, **state, "records": [asdict(record) for record in records]}
    note_patient(folder, patient.patient, content)
    return content


def _unchanged(folder: Path, patients: Sequence[Patient]) -> set[str]:
    """Patients whom an earlier call has finished and who would come out the same today."""
    finished, unchanged = finished_patients(folder), set()
    for patient in patients:
        note = finished.get(patient.patient)
        if note is not None and all(note[name] == value for name, value in state_of(patient).items()):
            unchanged.add(patient.patient)
    return unchanged


def _check_channel(done: Mapping[str, dict], patients: Sequence[Patient], archive: Archive) -> None:
    channels = {content["channel"]: name for name, content in done.items()}
    if len(channels) > 1:
        names = {patient.patient: patient.name for patient in patients}
        listed = " and ".join(f"{channel} in {names[name]}" for channel, name in channels.items())
        raise BadInput(
            f"{archive.folder}: patients differ in their intensities, {listed}; expected the same kind: convert "
            f"them into two datasets, or take one kind out"
        )
