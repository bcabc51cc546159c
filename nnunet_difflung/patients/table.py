"""Files that say which case belongs to which patient: CSV with the columns case,patient, or JSON {case: patient}."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from pathlib import Path

from nnunet_difflung.errors import BadInput

PATIENTS_FILE = "patients.json"  # read from the folder of a raw dataset without being told
_COLUMNS = ("case", "patient")
_EXPECTED = "expected a CSV file with the columns case,patient, or a JSON object {case: patient}"

Rows = Iterable[tuple[str, str, str]]  # place in the file, case, patient


def read_patients_file(path: str | Path) -> dict[str, str]:
    """Case id → patient, as a file says, including cases that a dataset does not have.

    Spaces around names, a byte order mark, semicolons or tabs instead of commas, further columns, and empty lines are
    accepted in CSV.

    Args:
        path: of the file; one that ends in ``.json`` or begins with ``{`` is JSON, any other is CSV.

    Raises:
        BadInput: names the file, the row and the fault: an empty name, a case with two patients, cases or patients that
            differ only in spelling, a wrong header, or a file that cannot be read.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror or error}); {_EXPECTED}: correct the path") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is not UTF-8 text ({error.reason}); {_EXPECTED}: save it as UTF-8") from error
    is_json = path.suffix.lower() == ".json" or text.lstrip().startswith("{")
    rows: Callable[[Path, str], Rows] = _json_rows if is_json else _csv_rows
    patients: dict[str, str] = {}
    places: dict[str, str] = {}
    for place, case, patient in rows(path, text):
        case, patient = case.strip(), patient.strip()
        if not case or not patient:
            what = f"the patient of case {case!r}" if case else "the case"
            raise BadInput(f"{path} {place}: {what} is empty; write a name, or remove the row")
        if odd := next((name for name in (case, patient) if _has_control_characters(name)), None):
            raise BadInput(f"{path} {place}: {odd!r} has a line break or a character that cannot be shown; remove it")
        if patients.get(case, patient) != patient:
            raise BadInput(
                f"{path} {place}: case {case!r} belongs to patient {patient!r}, but to {patients[case]!r} in "
                f"{places[case]}; keep the right one"
            )
        patients[case] = patient
        places.setdefault(case, place)
    if not patients:
        raise BadInput(f"{path} lists no case; {_EXPECTED}")
    _check_spelling(path, patients, places)
    return patients


def _has_control_characters(name: str) -> bool:
    return any(unicodedata.category(character) in ("Cc", "Cs") for character in name)


def _check_spelling(path: Path, patients: dict[str, str], places: dict[str, str]) -> None:
    of_patients = {patient: places[case] for case, patient in reversed(patients.items())}
    for what, where in (("case", places), ("patient", dict(reversed(of_patients.items())))):
        seen: dict[str, str] = {}
        for name in where:
            other = seen.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
            if other != name:
                raise BadInput(
                    f"{path} {where[name]}: {what} {name!r} differs only in upper and lower case (or in the form of "
                    f"accents) from {other!r} in {where[other]}; write one name in both, or clearly different names"
                )


def _csv_rows(path: Path, text: str) -> Rows:
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = next((character for character in ";\t" if character in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    order: list[int] = []
    header: list[str] = []
    try:
        for fields in reader:
            names = [field.strip() for field in fields]
            if not any(names):
                continue
            if not order:
                header = [name.casefold() for name in names]
                if any(header.count(column) != 1 for column in _COLUMNS):
                    raise BadInput(
                        f"{path} begins with {first.strip()!r}; expected the header case,patient (other columns are "
                        f"ignored): add it, or name these columns so"
                    )
                order = [header.index(column) for column in _COLUMNS]
            elif len(names) != len(header):
                raise BadInput(
                    f"{path} row {reader.line_num}: {len(names)} fields, expected {len(header)} as in the header; put "
                    f"names that contain {delimiter!r} in quotes"
                )
            else:
                yield f"row {reader.line_num}", names[order[0]], names[order[1]]
    except csv.Error as error:
        raise BadInput(f"{path} row {reader.line_num}: {error}; {_EXPECTED}") from error


def _json_rows(path: Path, text: str) -> Rows:
    try:
        content = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} is not valid JSON ({error}); {_EXPECTED}") from error
    if not isinstance(content, list) or not all(isinstance(pair, tuple) for pair in content):
        raise BadInput(f"{path} is not a JSON object; {_EXPECTED}")
    for number, (case, patient) in enumerate(content, start=1):
        if isinstance(patient, int) and not isinstance(patient, bool):
            patient = str(patient)
        if not isinstance(patient, str):
            raise BadInput(f"{path} entry {number}: the patient of case {case!r} is not text; {_EXPECTED}")
        yield f"entry {number}", case, patient


def covering(patients: dict[str, str], identifiers: Iterable[str], path: str | Path) -> dict[str, str]:
    """The patients of the given cases only.

    Raises:
        BadInput: the file lacks a case.
    """
    identifiers = list(identifiers)
    missing = [identifier for identifier in identifiers if identifier not in patients]
    if missing:
        raise BadInput(
            f"{path} does not list case {missing[0]!r}{_hint(missing[0], patients)}, {len(missing)} of "
            f"{len(identifiers)} cases are missing; add a row with its patient for each"
        )
    return {identifier: patients[identifier] for identifier in identifiers}


def _hint(missing: str, listed: Iterable[str]) -> str:
    """What a listed name that is nearly the missing one has too much or too little, for brackets; or nothing."""
    file = re.compile(rf"(?:.*[/\\])?{re.escape(missing)}(?:_[0-9]{{4}})?(?:\.[A-Za-z0-9]+)*")
    for case in listed:
        if case.casefold() == missing.casefold():
            return f" (it lists {case!r}, which differs only in upper and lower case)"
        if file.fullmatch(case):
            return f" (it lists {case!r}; a case has no folder, channel number or ending)"
        if missing.isdigit() and case == missing.lstrip("0"):
            return f" (it lists {case!r}; keep the zeros before the number, which spreadsheets drop)"
    return ""
