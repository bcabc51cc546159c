"""Files that say which case belongs to which patient: CSV with the columns case,patient, or JSON {case: patient}."""

from __future__ import annotations

import csv
import io
import json
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

    Spaces around names, a byte order mark, semicolons or tabs instead of commas, and empty lines are accepted in CSV.

    Args:
        path: of the file; one that ends in ``.json`` is JSON, any other is CSV.

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
    rows: Callable[[Path, str], Rows] = _json_rows if path.suffix.lower() == ".json" else _csv_rows
    patients: dict[str, str] = {}
    places: dict[str, str] = {}
    for place, case, patient in rows(path, text):
        case, patient = case.strip(), patient.strip()
        if not case or not patient:
            what = f"the patient of case {case!r}" if case else "the case"
            raise BadInput(f"{path} {place}: {what} is empty; write a name, or remove the row")
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
    try:
        for fields in reader:
            names = [field.strip() for field in fields]
            if not any(names):
                continue
            if not order:
                if sorted(name.casefold() for name in names) != sorted(_COLUMNS):
                    raise BadInput(f"{path} begins with {first.strip()!r}; expected the header case,patient: add it")
                order = [[name.casefold() for name in names].index(column) for column in _COLUMNS]
            elif len(names) != len(_COLUMNS):
                raise BadInput(
                    f"{path} row {reader.line_num}: {len(names)} fields, expected 2 (case{delimiter}patient); put "
                    f"names that contain {delimiter!r} in quotes"
                )
            else:
                yield f"row {reader.line_num}", names[order[0]], names[order[1]]
    except csv.Error as error:
        raise BadInput(f"{path} row {reader.line_num}: {error}; {_EXPECTED}") from error


def _json_rows(path: Path, text: str) -> Rows:
    try:
        content = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    except ValueError as error:
        raise BadInput(f"{path} is not valid JSON ({error}); {_EXPECTED}") from error
    if not isinstance(content, list) or not all(isinstance(pair, tuple) for pair in content):
        raise BadInput(f"{path} is not a JSON object; {_EXPECTED}")
    for number, (case, patient) in enumerate(content, start=1):
        if isinstance(patient, int) and not isinstance(patient, bool):
            patient = str(patient)
        if not isinstance(patient, str):
            raise BadInput(f"{path} entry {number}: the patient of case {case!r} is no text; {_EXPECTED}")
        yield f"entry {number}", case, patient


def covering(patients: dict[str, str], identifiers: Iterable[str], path: str | Path) -> dict[str, str]:
    """The patients of the given cases only.

    Raises:
        BadInput: the file lacks a case.
    """
    identifiers = list(identifiers)
    missing = [identifier for identifier in identifiers if identifier not in patients]
    if missing:
        nearly = next((case for case in patients if case.casefold() == missing[0].casefold()), None)
        hint = f" (it lists {nearly!r}, which differs only in upper and lower case)" if nearly else ""
        raise BadInput(
            f"{path} does not list case {missing[0]!r}{hint}, {len(missing)} of {len(identifiers)} cases are missing; "
            f"add a row with its patient for each"
        )
    return {identifier: patients[identifier] for identifier in identifiers}
