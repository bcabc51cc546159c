"""Who the patients of a dataset are: what was stated, else what was recorded, else what ids and splits say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import dataset_folders
from nnunet_difflung.patients.candidates import Candidate, examples, plausible_readings, slices_of_series
from nnunet_difflung.patients.doubts import doubt_of_slices, spelled_alike
from nnunet_difflung.patients.ids import (
    UnknownPatients,
    are_readable,
    by_pattern,
    read_id,
    read_ids,
    same_partition,
)
from nnunet_difflung.patients.record import Record, read_record, write_record
from nnunet_difflung.patients.table import PATIENTS_FILE, covering, read_patients_file
from nnunet_difflung.runtime.files import sha256
from nnunet_difflung.runtime.wording import quoted

Splits = Sequence[Mapping[str, Sequence[str]]]


@dataclass(frozen=True)
class Reading:
    """The patients of cases, and where they are known from.

    Attributes:
        source: ``ids``: each id says it; ``pattern`` or ``file``: the user says it; ``splits``: the ids are ambiguous
            and the folds were given, so that nothing was decided; ``recorded``: an earlier version recorded them.
        patients: case id → patient.
        pattern: regular expression of ``--patient-pattern``; None for other sources.
        file: name of the file (``DatasetXXX_NAME/patients.json`` if it lies in the raw dataset); else None.
        path: where the file was read, if this command has read it; it is not recorded.
        sha256: hash of the file.
        listed: every row of the file, which may have more cases than the dataset.
        warning: if the folds seem to have a patient in training and in validation: a line that says so.
        notes: lines to tell the user.
    """

    source: str
    patients: dict[str, str]
    pattern: str | None = None
    file: str | None = None
    path: Path | None = None
    sha256: str | None = None
    listed: dict[str, str] = field(default_factory=dict)
    warning: str | None = None
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """JSON content for records: ``from``, the number of ``patients``, and what else is not None.

        Of ids that were read, ``examples`` shows how: case id → patient.
        """
        more = {key: getattr(self, key) for key in ("pattern", "file", "sha256", "warning")}
        more["examples"] = self._examples() if self.source == "ids" else None
        return {
            "from": self.source,
            **{key: value for key, value in more.items() if value is not None},
            "patients": len(set(self.patients.values())),
        }

    def record(self, name: str) -> None:
        """Records the patients of ``DatasetXXX_NAME`` in its results, for every later command."""
        write_record(name, self.as_dict(), self.listed or self.patients)

    def lines(self) -> list[str]:
        """The warning, if there is one, and the notes, as lines to print."""
        return [*([f"Warning: {self.warning}"] if self.warning else []), *self.notes]

    def origin(self) -> str:
        """A line that says how many patients there are and where they are known from, so that a wrong reading shows."""
        shown = "such as " + ", ".join(f"{case} → {patient}" for case, patient in self._examples().items())
        remedy = "if that is wrong, give --patients FILE or --patient-pattern"
        origins = {
            "ids": f"read from the ids, {shown}; {remedy}",
            "pattern": f"by --patient-pattern {self.pattern!r}, {shown}",
            "file": f"listed in {self.path}" if self.path else f"recorded earlier, from {self.file}",
            "splits": f"read so that the given folds fit, since the ids are ambiguous, {shown}; {remedy}",
        }
        origin = origins.get(self.source, f"recorded by an earlier version, {shown}")
        return f"Patients: {len(set(self.patients.values()))}, {origin}."

    def _examples(self) -> dict[str, str]:
        return {case: self.patients[case] for case in examples(self.patients)}

    @property
    def stated(self) -> str:
        """What the user stated, for messages."""
        return (
            f"--patient-pattern {self.pattern!r}" if self.source == "pattern" else f"the file {self.path or self.file}"
        )


def find_reading(
    name: str,
    identifiers: Sequence[str],
    pattern: str | None = None,
    file: str | Path | None = None,
    splits: Splits | None = None,
    where: str = "",
) -> Reading:
    """The patients of a dataset's cases.

    In this order: the pattern or file that is given; the one that an earlier command recorded; ``patients.json`` in the
    raw dataset; other records; ids that each say it by themselves; the splits.

    Args:
        name: ``DatasetXXX_NAME``.
        identifiers: ids of real cases, of the dataset or (for comparing predictions) also others.
        pattern: regular expression that matches each id and whose first group is the patient.
        file: CSV or JSON file of patients.
        splits: folds that exist already; None if they have to be made.
        where: path of the splits, for messages.

    Raises:
        BadInput: the pattern or a file is faulty, or contradicts the patients with which generators or synthetic cases
            of this dataset were made; or a case is in no record and its id is ambiguous.
        UnknownPatients: nothing says who the patients are.
    """
    record, beside = read_record(name), _beside_dataset(name)
    if record is not None and not record.used and record.source in ("ids", "splits"):
        record = None  # nobody has said it and nothing was made with it, so it is read again
    given = _given(identifiers, pattern, file)
    if given is None and beside is not None and not _by_option(record):
        given = replace(_from_file(beside, identifiers), file=f"{name}/{PATIENTS_FILE}")
        beside = None
    if given is not None:
        reading = given if record is None else _reconciled(name, given, record)
    elif record is not None:
        reading = _from_record(name, record, identifiers)
    elif are_readable(identifiers):
        reading = Reading("ids", read_ids(identifiers))
    elif splits is not None:
        reading = Reading("splits", _from_splits(identifiers, splits))
    else:
        reading = Reading("ids", read_ids(identifiers, f"case ids of {name}"))
    if beside is not None:
        reading = _compared_with(beside, reading)
    if splits is not None and reading.source in ("splits", "recorded"):
        reading = replace(reading, warning=_warning(reading.patients, splits, where))
    return reading


def also_among(
    name: str,
    identifiers: Sequence[str],
    others: Iterable[str],
    pattern: str | None = None,
    file: str | Path | None = None,
) -> tuple[dict[str, str], bool]:
    """The cases outside the folds, such as those of a test set, whose patients have cases in the folds.

    Args:
        name: ``DatasetXXX_NAME``.
        identifiers: cases in the folds.
        others: the other cases; those whose patients are not known are left out.
        pattern: as in ``find_reading``.
        file: likewise.

    Returns:
        case → patient, and whether that was stated (it was read from the ids otherwise).
    """
    try:
        reading = find_reading(name, identifiers, pattern, file)
    except BadInput:
        return {}, False
    stated = reading.source in ("pattern", "file")
    known = {case: reading.listed.get(case) for case in others}
    if reading.pattern is not None:
        known = {case: _by_pattern_or_none(case, reading.pattern) for case in known}
    elif not stated and all(read_id(case) == patient for case, patient in reading.patients.items()):
        known = {case: read_id(case) for case in known}
    within = set(reading.patients.values())
    return {case: patient for case, patient in known.items() if patient in within}, stated


def _by_pattern_or_none(case: str, pattern: str) -> str | None:
    try:
        return by_pattern([case], pattern)[case]
    except BadInput:
        return None


# ---- what the user states ----


def _given(identifiers: Sequence[str], pattern: str | None, file: str | Path | None) -> Reading | None:
    if pattern is not None:
        return _from_pattern(pattern, identifiers)
    return None if file is None else _from_file(Path(file), identifiers)


def _from_pattern(pattern: str, identifiers: Sequence[str]) -> Reading:
    patients = by_pattern(identifiers, pattern)
    notes = (
        _note_of_alike(f"--patient-pattern {pattern!r}", patients)
        if len(set(patients.values())) < len(patients)
        else ()
    )
    return Reading("pattern", patients, pattern=pattern, notes=notes)


def _from_file(path: Path, identifiers: Sequence[str]) -> Reading:
    listed = read_patients_file(path)
    patients = covering(listed, identifiers, path)
    notes = _note_of_alike(str(path), patients)
    return Reading("file", patients, file=path.name, path=path, sha256=sha256(path), listed=listed, notes=notes)


def _note_of_alike(stated: str, patients: Mapping[str, str]) -> tuple[str, ...]:
    alike = spelled_alike(patients.values())
    if alike is None:
        return ()
    return (
        f"Note: {stated} takes {alike[0]!r} and {alike[1]!r} for two patients; if they are one, correct that, or list "
        f"the patients in a file for --patients.",
    )


def _beside_dataset(name: str) -> Path | None:
    raw, _ = dataset_folders(name)
    return raw / PATIENTS_FILE if raw is not None and (raw / PATIENTS_FILE).is_file() else None


def _by_option(record: Record | None) -> bool:
    """Whether an earlier command was told with an option, which counts more than the file beside the dataset."""
    return record is not None and (
        record.source == "pattern" or (record.source == "file" and "/" not in (record.file or ""))
    )


def _compared_with(beside: Path, reading: Reading) -> Reading:
    """The reading, with a note if the file beside the dataset says otherwise."""
    try:
        other = read_patients_file(beside)
    except BadInput:
        other = {}
    if other and same_partition(other, reading.patients):
        return reading
    told = reading.stated if reading.source in ("pattern", "file") else "the record of earlier commands"
    return replace(reading, notes=(*reading.notes, f"Note: {beside} says otherwise and is not used; {told} counts."))


def _reconciled(name: str, given: Reading, record: Record) -> Reading:
    """What is stated now, with the names of patients that are recorded.

    Raises:
        BadInput: it puts other cases together than the record, and something was made with the record.
    """
    if not same_partition(given.patients, record.patients):
        if record.used:
            remedy = "leave the option out"
            if given.file and "/" in given.file:
                remedy = "restore the file as it was"
            raise BadInput(
                f"{given.stated} gives other patients ({len(set(given.patients.values()))}) than {record.path} "
                f"({len(set(record.patients.values()))}), with which generators or synthetic cases of {name} were "
                f"made; {remedy}, or start anew: difflung_remove -d {quoted(name)} --generators"
            )
        note = f"Note: {given.stated} replaces the patients that were recorded in {record.path}."
        return replace(given, notes=(*given.notes, note))
    return replace(given, patients=_with_recorded_names(given.patients, record))


def _with_recorded_names(patients: dict[str, str], record: Record) -> dict[str, str]:
    """The same patients by the names in a record that puts the same cases together, unless that joins two patients."""
    names = {patients[case]: record.patients[case] for case in patients if case in record.patients}
    others = {patient for patient in patients.values() if patient not in names}
    if others & set(names.values()):
        return patients
    return {case: names.get(patient, patient) for case, patient in patients.items()}


def contradiction(folder: Path, patients: Mapping[str, str]) -> str | None:
    """How ``patients.json`` in a raw dataset contradicts the patients with which something was made.

    Args:
        folder: the raw dataset.
        patients: case id → patient.

    Returns:
        a sentence without its full stop; None if the file puts the same cases together, or if there is none.
    """
    path = folder / PATIENTS_FILE
    if not path.is_file():
        return None
    try:
        listed = read_patients_file(path)
    except BadInput as error:
        return str(error)
    if same_partition(listed, patients):
        return None
    cases = sorted(case for case in listed if case in patients)
    differ = ((a, b) for a in cases for b in cases if (listed[a] == listed[b]) != (patients[a] == patients[b]))
    first, second = next(differ)
    there, here = ("one patient", "two") if listed[first] == listed[second] else ("two patients", "one")
    return f"{path} says that {first} and {second} are of {there}, but the synthetic cases were made as if of {here}"


def noting_others(reading: Reading, folder: Path) -> Reading:
    """The reading, with a note if the file that was read lists cases that a raw dataset does not have.

    Args:
        reading: of the dataset's training cases.
        folder: the raw dataset; the cases in its ``imagesTs`` may be listed too.
    """
    tests = {path.name for path in folder.glob("imagesTs/*")} if reading.path else set()
    others = [
        case
        for case in reading.listed
        if reading.path and case not in reading.patients and not any(name.startswith(f"{case}_") for name in tests)
    ]
    if not others:
        return reading
    note = f"Note: {reading.path} lists {others[0]!r}, which is not a case of {folder.name} ({len(others)} such rows)."
    return replace(reading, notes=(*reading.notes, note))


# ---- what was recorded ----


def _from_record(name: str, record: Record, identifiers: Sequence[str]) -> Reading:
    patients = {case: record.patients[case] for case in identifiers if case in record.patients}
    new = [case for case in identifiers if case not in patients]
    if new and record.pattern is not None:
        patients = _with_recorded_names(by_pattern([*record.patients, *new], record.pattern), record)
    elif new:
        patients |= _read_as_recorded(name, record, new)
    known = {case: patients[case] for case in identifiers}
    listed = record.patients if record.source == "file" else {}
    return Reading(record.source, known, pattern=record.pattern, file=record.file, sha256=record.sha256, listed=listed)


def _read_as_recorded(name: str, record: Record, new: Sequence[str]) -> dict[str, str]:
    """Patients of new cases by their ids, if the recorded patients are what the ids say.

    Raises:
        BadInput: they are not, or an id is ambiguous.
    """
    read = {case: read_id(case) for case in (*record.patients, *new)}
    unclear = [case for case in new if read[case] is None]
    by_ids = all(read[case] == patient for case, patient in record.patients.items())
    if record.source == "file" or unclear or not by_ids or not are_readable(read):
        case = unclear[0] if unclear else new[0]
        raise UnknownPatients(
            f"case {case} is not among the cases of {name} whose patients are recorded in {record.path}, and its "
            f"patient cannot be told from its id; give --patients FILE with a row for each case, or --patient-pattern"
        )
    return {case: str(read[case]) for case in new}


# ---- what splits say ----


def _from_splits(identifiers: Sequence[str], splits: Splits) -> dict[str, str]:
    """The coarsest reading that makes sense and that the folds do not cut, else every case is a patient.

    Patients with several cases are never taken apart here by a guess: where the folds keep cases together that may be
    of one patient, intervals and "other patients" treat them as one. Ids that are unambiguous are always read.
    """
    clear = {case: patient for case in identifiers if (patient := read_id(case))}
    clear = {case: case for case in identifiers} | ({} if doubt_of_slices(clear) else clear)
    if _torn(clear, splits):
        return clear  # which is refused
    whole = (reading for reading in plausible_readings(identifiers) if not _torn(reading.patients, splits))
    return next((reading.patients for reading in whole), clear)


def _torn(patients: Mapping[str, str], splits: Splits) -> dict[str, tuple[int, str, str]]:
    """Patient → (fold, training case, validation case) of patients that a fold has on both sides."""
    torn: dict[str, tuple[int, str, str]] = {}
    for fold, split in enumerate(splits):
        training = {patients[case]: case for case in reversed(split["train"]) if case in patients}
        for case in split["val"]:
            if patients.get(case) in training:
                torn.setdefault(patients[case], (fold, training[patients[case]], case))
    return torn


def suspicion(identifiers: Iterable[str], splits: Splits, where: str) -> tuple[str, str] | None:
    """Whether folds seem to cut through patients, by a reading of the ids that makes sense (``plausible_readings``).

    Args:
        identifiers: ids of the real cases.
        splits: the folds.
        where: path of the folds, for the sentence.

    Returns:
        a sentence without its full stop, and the option for the reading; None if no fold does.
    """
    identifiers = list(identifiers)
    readings = plausible_readings(identifiers) or filter(None, [slices_of_series(identifiers)])
    cut = [(reading, _torn(reading.patients, splits)) for reading in readings]
    cut = [(reading, torn) for reading, torn in cut if torn]
    if not cut:
        return None
    reading, torn = cut[-1]  # the one that puts the fewest cases together
    patient, (fold, training, validation) = min(torn.items(), key=lambda item: item[1][0])
    sentence = (
        f"{where} seems to have patients in training and in validation: {training} and {validation} are on both sides "
        f"of fold {fold}, and may both be of patient {patient} ({len(torn)} such patients, if {_described(reading)})"
    )
    return sentence, reading.option


def _warning(identifiers: Iterable[str], splits: Splits, where: str) -> str | None:
    cut = suspicion(identifiers, splits, where)
    return cut and (
        f"{cut[0]}. If so, delete the file to get folds grouped by patient, and give {cut[1]}; if every case is a "
        f"patient, give --patient-pattern '(.+)'."
    )


def _described(reading: Candidate) -> str:
    return (
        f"the patient is the id {reading.title}"
        if reading.title.startswith(("up to", "without"))
        else (f"the patient is {reading.title}")
    )
