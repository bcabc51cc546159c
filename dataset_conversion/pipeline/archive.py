"""Converts an archive to a dataset: lists its patients, checks whether they can be converted, and converts them."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from nnunet_difflung.dataset_conversion.archive.grouping import Grouping
from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions
from nnunet_difflung.dataset_conversion.case import IGNORE, CaseRecord
from nnunet_difflung.dataset_conversion.notes import Note
from nnunet_difflung.dataset_conversion.output.report import report_of_dataset
from nnunet_difflung.dataset_conversion.output.staged_dataset import (
    finished_patients,
    keep_only,
    note_patient,
    staged_dataset,
)
from nnunet_difflung.dataset_conversion.output.writer import finish_dataset
from nnunet_difflung.dataset_conversion.pipeline.leaving_out import (
    MOST_LISTED,
    LeftOut,
    excluded,
    faults,
    left_out_entries,
    reasons_for_readers,
    refusal,
    without,
)
from nnunet_difflung.dataset_conversion.pipeline.mapping import LabelMapping
from nnunet_difflung.dataset_conversion.pipeline.options import ConvertOptions
from nnunet_difflung.dataset_conversion.pipeline.patients import (
    Patient,
    anonymised_command,
    choose_test,
    hashes_of,
    is_unchanged,
    name_patients,
    state_of,
    without_files,
)
from nnunet_difflung.dataset_conversion.sources import Listing, Source
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import NNUNET_RAW, nnunet_folder
from nnunet_difflung.runtime.files import json_bytes, write_json
from nnunet_difflung.runtime.modes import readable_like
from nnunet_difflung.runtime.parallel import in_parallel

MANIFEST = "difflung_conversion.json"
STAGED_AS = "0.1.0"  # the version since which staged cases are made alike; raised when they change


@dataclass(frozen=True)
class Archive:
    """An archive.

    Attributes:
        folder: that holds it.
        kind: one of ``archive.options.KINDS``, or the converter of a public set.
        sources: scans of its patients.
        listings: of these scans.
        grouping: where the patients are known from.
        notes: on the folder.
        left_out: patients that are not among the scans.
    """

    folder: Path
    kind: str
    sources: tuple[Source, ...]
    listings: tuple[Listing, ...]
    grouping: Grouping
    notes: tuple[Note, ...] = ()
    left_out: tuple[LeftOut, ...] = ()

    @property
    def patients(self) -> int:
        """Number of patients, without those that are left out."""
        return len({source.patient for source in self.sources})

    def files(self) -> list[Path]:
        """The files of all patients."""
        pairs = zip(self.sources, self.listings, strict=True)
        return [Path(source.folder) / name for source, listing in pairs for name in listing.files]

    def counted(self, anonymous: bool = False) -> str:
        """How many pictures or scans of how many patients, and where the patients are known from, for people."""
        number, patients = len(self.sources), len({source.patient for source in self.sources})
        what = "volume" if self.kind == "volumes" else "scan"
        if self.kind == "slices":
            number, what = sum(listing.size[2] for listing in self.listings), "slice"
        if self.grouping.refusal is not None:
            return f"{number} {what}{'s' * (number != 1)}, whose patients are not known"
        unit = self.grouping.unit if patients != 1 else self.grouping.unit.removesuffix("s")
        text = f"{number} {what}{'s' * (number != 1)} of {patients} {unit} (patients: {self.grouping.text(anonymous)})"
        return f"{text}\nWarning: {self.grouping.warning}" if self.grouping.warning else text


def read_archive(folder: Path, options: ArchiveOptions, processes: int = 1) -> Archive:
    """Finds the patients of an archive and lists them.

    Raises:
        BadInput: the folder does not exist, holds no images, or an option does not fit.
    """
    from nnunet_difflung.dataset_conversion.archive.find import find_patients, notes_on_folder

    kind, sources, grouping = find_patients(folder, options, processes)
    if not sources:
        raise BadInput(f"{folder}: no patient was found; expected images of at least one patient: add the files")
    archive = listed_archive(folder, kind, sources, grouping, processes, options.exclude)
    return replace(archive, notes=notes_on_folder(folder, kind))


def listed_archive(
    folder: Path,
    kind: str,
    sources: Sequence[Source],
    grouping: Grouping,
    processes: int = 1,
    exclude: Sequence[str] = (),
) -> Archive:
    """An archive of the given sources, with their listings, without patients that ``exclude`` names.

    Raises:
        BadInput: ``exclude`` names a patient that does not exist, or all patients.
    """
    out = excluded(list(dict.fromkeys(source.patient for source in sources)), exclude, folder)
    if out:
        sources, grouping = without(out, sources, grouping)
    listings = tuple(in_parallel(_listing, sources, processes, "patients"))
    return Archive(
        folder, kind, tuple(sources), listings, grouping, left_out=tuple(LeftOut(name) for name in sorted(out))
    )


def without_faulty(archive: Archive) -> Archive:
    """The archive without the patients that cannot be converted, as far as the listings tell.

    Raises:
        BadInput: no patient is left.
    """
    of_patients = faults(archive.listings)
    if of_patients and len(of_patients) == archive.patients:
        raise refusal(of_patients, archive.patients)
    kept, grouping = without(set(of_patients), archive.sources, archive.grouping)
    return replace(
        archive,
        sources=tuple(kept),
        listings=tuple(listing for listing in archive.listings if listing.patient not in of_patients),
        grouping=grouping,
        left_out=(*archive.left_out, *(LeftOut(name, fault) for name, fault in of_patients.items())),
    )


def _listing(source: Source) -> Listing:
    return source.listing()


def check_archive(archive: Archive, mapping: LabelMapping, allow_missing: bool) -> None:
    """Checks whether every patient can be converted with this mapping, as far as the listings tell.

    Raises:
        BadInput: a patient has a problem, the mapping does not cover a structure, a patient lacks a label, or the
            patients are not known.
    """
    unknown = archive.grouping.refusal
    if unknown is None or archive.kind != "slices":  # whether a patient's slices have masks shows when they are grouped
        check_readable(archive)
    if unknown is not None:
        raise unknown
    holders = {name: listing.patient for listing in reversed(archive.listings) for name in listing.structures}
    mapping.check(holders, str(archive.folder), holders)
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
            f"{archive.folder}: no structure was drawn for {'; '.join(lacking)}; correct the mapping, add the missing "
            f"structures, leave the patients out with --exclude, or give --allow-missing if these patients were "
            f"examined and do not have them"
        )


def check_readable(archive: Archive) -> None:
    """Checks that no listing has a problem.

    Raises:
        BadInput: patients have problems; all of them are listed.
    """
    if of_patients := faults(archive.listings):
        raise refusal(of_patients, archive.patients)


def plan_patients(
    archive: Archive, options: ConvertOptions, anonymous: bool, test: Sequence[str], test_share: float | None, seed: int
) -> list[Patient]:
    """The patients with their ids; test patients are marked, unless they cannot be converted and are left out.

    Raises:
        BadInput: a test patient does not exist or is excluded, or no patient remains for training.
    """
    pairs = [(source.patient, source) for source in archive.sources]
    patients = name_patients(pairs, anonymous)
    out = {left_out.name: left_out for left_out in archive.left_out}
    for name in test:
        if name in out and not out[name].fault:
            raise BadInput(f"--test {name}: --exclude leaves this patient out; remove the name from one of the options")
    test = [name for name in test if name not in out]
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
    command: Sequence[str] = (),
    anonymous: bool = False,
    about: Mapping[str, str] | None = None,
    skip_faulty: bool = False,
) -> list[CaseRecord]:
    """Writes ``$nnUNet_raw/<full_name>``; patients that an interrupted call has finished are not converted again.

    Args:
        archive: to convert.
        mapping: structures → labels; checked by ``check_archive``.
        options: how patients become cases.
        patients: from ``plan_patients``.
        full_name: ``DatasetXXX_Name``.
        processes: number of patients converted at a time; each process holds one of them in memory.
        overwrite: whether to replace a dataset of this name.
        seed: of the folds.
        verify: whether nnU-Net checks the result.
        command: words of the command, for the manifest of the conversion.
        anonymous: whether to keep the names of patients and files out of the manifest.
        about: entries of ``dataset.json``, such as ``description``, ``reference`` and ``license``.
        skip_faulty: whether to go on without patients that cannot be converted.

    Returns:
        A record of every case.

    Raises:
        BadInput: patients cannot be converted, or have different kinds of intensities; no dataset is written in this
            case. The others are converted first, so that all faults are listed together and nothing is done twice.
    """
    identity = [STAGED_AS, options.as_dict(), asdict(mapping), str(archive.folder.resolve())]
    key = hashlib.sha256(json_bytes(identity)).hexdigest()
    with (
        readable_like(archive.files(), [Path(nnunet_folder(NNUNET_RAW))]),
        staged_dataset(full_name, overwrite, key) as folder,
    ):
        work = partial(_convert_unless_finished, mapping=mapping, options=options, folder=folder)
        keep_only(folder, _unchanged(folder, patients))
        done, of_patients = _converted(work, patients, processes, archive, skip_faulty)
        if of_patients and not (skip_faulty and any(p.patient in done and not p.test for p in patients)):
            given_up = not done and len(of_patients) < len(patients)
            raise refusal(of_patients, len(patients), given_up)
        if of_patients:
            keep_only(folder, done)  # without the first scans of a patient whose later scan is faulty
        left_out = (*archive.left_out, *(LeftOut(name, fault) for name, fault in of_patients.items()))
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
            not archive.grouping.warning,
            **{
                "name": full_name,
                "description": f"converted from {archive.kind} by difflung_convert",
                **(about or {}),
            },
        )
        derived = sorted({name for content in done.values() for name in content["derived"]})
        notes = {
            name: without_files(content) if anonymous else [Note.of(entry) for entry in content["notes"]]
            for name, content in done.items()
        }
        on_archive: dict[str, Sequence[Note]] = {"": archive.notes}  # these are no ids, so that no patient has them
        on_archive |= {f" {patient.name}": [patient.note(anonymous)] for patient in left_out}
        reasons = reasons_for_readers(left_out, anonymous, archive.folder)
        report_of_dataset(folder, records, mapping.labels, channel, processes, derived, notes | on_archive, reasons)
        hidden = {"records", "stamp", "keys", "hashes", *(["files"] if anonymous else [])}
        write_json(
            folder / MANIFEST,
            {
                "format": 1,
                "command": shlex.join(anonymised_command(command, patients) if anonymous else command),
                "kind": archive.kind,
                "content": archive.counted(anonymous),
                "channel": channel,
                "options": options.as_dict(),
                "mapping": asdict(mapping),
                "derived": derived,
                "seed": seed,
                "patients": {
                    name: {k: v for k, v in content.items() if k not in hidden}
                    | {
                        "notes": [note.text for note in notes[name]],
                        "cases": [row["case_id"] for row in content["records"]],
                    }
                    for name, content in done.items()
                },
                **({"left_out": left_out_entries(left_out, anonymous)} if left_out else {}),
            },
        )
    return records


def _converted(
    work: Callable[[Patient], dict], patients: Sequence[Patient], processes: int, archive: Archive, skip_faulty: bool
) -> tuple[dict[str, dict], dict[str, str]]:
    """The notes on the converted patients, and why the others cannot be; many faults end it, unless they are skipped.

    Raises:
        BadInput: patients have different kinds of intensities.
    """
    done: dict[str, dict] = {}
    of_patients: dict[str, str] = {}
    attempt = partial(_or_fault, work)
    for patient, (content, fault) in zip(patients, in_parallel(attempt, patients, processes, "patients"), strict=True):
        if fault:
            of_patients[patient.name] = fault
        else:
            done[patient.patient] = content
            _check_channel(done, patients, archive)
        if len(of_patients) == MOST_LISTED and not done and not skip_faulty:
            break
    return done, of_patients


def _or_fault(work: Callable[[Patient], dict], patient: Patient) -> tuple[dict, str]:
    try:
        return work(patient), ""
    except BadInput as error:
        return {}, str(error)


def _convert_unless_finished(patient: Patient, mapping: LabelMapping, options: ConvertOptions, folder: Path) -> dict:
    """The note on a patient, who is converted unless an earlier call has finished the patient."""
    from nnunet_difflung.dataset_conversion.pipeline.patient import convert_patient

    note = finished_patients(folder).get(patient.patient)
    if note is not None:
        return note
    state = state_of(patient)
    hashes = hashes_of(patient, state)
    records, about = convert_patient(patient, mapping, options, folder)
    content = {**about, **state, "hashes": hashes, "records": [asdict(record) for record in records]}
    note_patient(folder, patient.patient, content)
    return content


def _unchanged(folder: Path, patients: Sequence[Patient]) -> set[str]:
    """Patients that an earlier call has finished and that have not changed since."""
    finished = finished_patients(folder)
    return {p.patient for p in patients if p.patient in finished and is_unchanged(p, finished[p.patient])}


def _check_channel(done: Mapping[str, dict], patients: Sequence[Patient], archive: Archive) -> None:
    """Raises BadInput if the converted patients have different channels."""
    channels: dict[str, list[str]] = {}
    names = {patient.patient: patient.name for patient in patients}
    for patient, content in done.items():
        channels.setdefault(content["channel"], []).append(names[patient])
    if len(channels) > 1:
        listed = " and ".join(
            f"{channel} in {', '.join(of_channel[:8])}{', …' if len(of_channel) > 8 else ''}"
            for channel, of_channel in channels.items()
        )
        raise BadInput(
            f"{archive.folder}: patients have different kinds of intensities, {listed}; expected the same kind: "
            f"convert them to two datasets, or leave out the patients of one kind with --exclude"
        )
