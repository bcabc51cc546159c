"""Doubts about patients that each id of a dataset names by itself, which show only where all ids are seen together."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations

from nnunet_difflung.patients.candidates import MOST_SCANS, plausible_readings
from nnunet_difflung.patients.words import PATIENT_WORDS, is_source

_BIDS = "sub-"
_SEPARATORS = re.compile(r"[ _.-]+")
_NUMBERED = re.compile(r"(?P<name>.*?)[ _.-]*(?P<number>[0-9]+)")
_MANY_NAMES = 5  # names before numbers; of so many, most are rather people than sources of patients
_FEW_SCANS = 4  # numbers behind each of fewer names; more of them are rather patients than scans of one person
_FEWEST_SHARED = 3  # numbers that several names share and that are not shared by chance
_MOST_SHARED = 0.8  # share of one name's numbers that another has, if both are scans of the same patients


def doubt_of(patients: Mapping[str, str]) -> str | None:
    """Why the patients that ids name by themselves may be wrong, in a few words for brackets; None without a doubt.

    Args:
        patients: case id → patient, as ``patients.read_id`` reads it.
    """
    names = sorted(set(patients.values()))
    if alike := spelled_alike(names) or _synonyms(names):
        return f"{alike[0]!r} and {alike[1]!r} may be the same"
    if counted := counted_within(names) or _scans_of_few(names):
        return f"the number in {counted!r} may count scans of a patient"
    if shared := _shared_numbers(names):
        return f"{shared[0]!r} and {shared[1]!r} may be scans of the same patient"
    return doubt_of_slices(patients)


def doubt_of_slices(patients: Mapping[str, str]) -> str | None:
    """Why counters such as ``_s001`` may number subjects and not slices, in a few words; None without a doubt."""
    if source := _single_numbers(patients):
        return f"{source!r} may be the name of a site or of a collection"
    if running := _running_counters(patients):
        return f"the counter goes on from {running[0]!r} to {running[1]!r}, so it may number subjects and not slices"
    return None


def spelled_alike(patients: Iterable[str]) -> tuple[str, str] | None:
    """Two different names that differ only in upper and lower case, separators, zeros before a number or accents' form.

    Returns:
        the first such pair in sorted order, or None.
    """
    return _first_pair(patients, _plain)


def counted_within(patients: Iterable[str]) -> str | None:
    """One of patients whose number may count scans of a patient; None if there are none.

    Such are the numbers in ``genius_0800 0801 0900 0901 1000 1001``, or in ``smith_000 smith_001 jones_000 jones_001``
    of five or more names. There must be three or more numbers, and most of them, or most names, must have several
    scans, counted without gaps; and no name may have many, so that it is rather a source of patients.
    """
    names = sorted(set(patients))
    for reading in plausible_readings(names):
        groups = reading.groups()
        several = [group for group in groups if len(group) > 1]
        enough = 2 * len(several) > len(groups) and (len(groups) > 2 or not reading.splits_numbers)
        if enough and len(names) <= MOST_SCANS * len(groups):
            return several[0][0]
    return None


def _plain(name: str) -> str:
    text = _SEPARATORS.sub("-", unicodedata.normalize("NFKC", name).casefold())
    text = re.sub(r"(?<=[^\W\d_])-(?=[0-9])|(?<=[0-9])-(?=[^\W\d_])", "", text)
    return re.sub(r"(?<![0-9])0+(?=[0-9])", "", text)


def _synonyms(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names that are a word for a patient and the same number, such as ``p01`` and ``patient_1``."""
    words = "|".join(PATIENT_WORDS)
    return _first_pair(names, lambda name: re.sub(f"^(?:{words})(?=[0-9]+$)", "p", _plain(name)))


def _first_pair(names: Iterable[str], key: Callable[[str], str]) -> tuple[str, str] | None:
    seen: dict[str, str] = {}
    for name in sorted(set(names)):
        other = seen.setdefault(key(name), name)
        if other != name:
            return other, name
    return None


def _numbers_of_names(patients: Iterable[str]) -> dict[str, list[str]]:
    """The numbers behind each name: ``{"lung": ["001", "002"]}``; without subjects named by the BIDS standard."""
    numbers: dict[str, list[str]] = {}
    for patient in sorted(set(patients)):
        if not patient.startswith(_BIDS) and (match := _NUMBERED.fullmatch(patient)):
            numbers.setdefault(match["name"].casefold(), []).append(match["number"])
    return numbers


def _scans_of_few(names: Iterable[str]) -> str | None:
    """A patient such as ``smith_000`` if there are few numbers behind each of a few names, which may be people."""
    numbers = {name: n for name, n in _numbers_of_names(names).items() if not _is_known(name)}
    several = sorted(name for name, n in numbers.items() if len(n) > 1)
    few = sum(map(len, numbers.values())) <= _FEW_SCANS * len(numbers)
    if not 1 < len(numbers) < _MANY_NAMES or not few or 2 * len(several) <= len(numbers):
        return None
    return next(patient for patient in sorted(names) if patient.casefold().startswith(several[0]))


def _shared_numbers(names: Iterable[str]) -> tuple[str, str] | None:
    """Two patients with the same number, if two names have the same numbers but for a few: ``gated_01, ungated_01``.

    Some patients may lack one of the two scans.
    """
    numbers = {
        name: set(of_name)
        for name, of_name in _numbers_of_names(names).items()
        if len(of_name) >= _FEWEST_SHARED and not _is_known(name)
    }
    for pair in combinations(numbers, 2):
        fewer, more = sorted((numbers[name] for name in pair), key=len)
        if fewer <= more and len(fewer) >= _MOST_SHARED * len(more):
            same = min(fewer)
            first, second = (
                next(p for p in sorted(names) if re.fullmatch(f"{re.escape(name)}[ _.-]*{same}", p, re.IGNORECASE))
                for name in pair
            )
            return first, second
    return None


def _single_numbers(patients: Mapping[str, str]) -> str | None:
    """A patient with several cases and a number that is rather part of a name, such as ``covid19`` and ``charite1``.

    Such names have a single number each, and there are other patients beside them, or it is a year of a public set.
    """
    numbers = _numbers_of_names(patients.values())
    alone = len(set(patients.values())) == 1
    single = {
        name
        for name, (first, *more) in numbers.items()
        if not more and name not in PATIENT_WORDS and (not alone or (is_source(name) and re.match("[1-9][0-9]", first)))
    }
    cases: dict[str, int] = {}
    for patient in patients.values():
        cases[patient] = cases.get(patient, 0) + 1
    return next(
        (
            patient
            for patient in sorted(cases)
            if cases[patient] > 1 and (match := _NUMBERED.fullmatch(patient)) and match["name"].casefold() in single
        ),
        None,
    )


def _running_counters(patients: Mapping[str, str]) -> tuple[str, str] | None:
    """The ids at the first change of patient if ``_s`` counts on through all patients: ``mgh1_s009``, ``mgh2_s010``."""
    counted = []
    for case, patient in patients.items():
        match = re.search(r"[ _.-]s[ _.-]?([0-9]+)$", case, re.IGNORECASE)
        if match is None or patient.startswith(_BIDS):
            return None
        counted.append((int(match[1]), patient, case))
    counted.sort()
    values = [value for value, _, _ in counted]
    changes = [k for k in range(1, len(counted)) if counted[k][1] != counted[k - 1][1]]
    several = len(counted) >= 2 * len(set(patients.values()))
    if not changes or not several or len(changes) + 1 != len(set(patients.values())):
        return None
    if values != list(range(values[0], values[0] + len(values))):
        return None
    return counted[changes[0] - 1][2], counted[changes[0]][2]


def _is_known(name: str) -> bool:
    """Whether a name is known as that of a source, such as a site or a public set, or as a word for a patient."""
    return any(is_source(word) or word in PATIENT_WORDS for word in _SEPARATORS.split(name))
