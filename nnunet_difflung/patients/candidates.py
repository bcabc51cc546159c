"""Candidate readings of case ids: patterns by which a name could hold its patient, to be offered or to be wary of."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from nnunet_difflung.patients.words import (
    COHORT_WORDS,
    PATIENT_WORDS,
    PLACE_WORDS,
    is_date,
    is_source,
    means_something_else,
)

EVERY_CASE = "(.+)"
MOST_SHOWN = 6
MOST_SCANS = 12  # scans of a patient on average; numbers or names with more are rather sources of patients
_COUNTER = re.compile(
    r"(?P<before>[/ _.-]+)(?P<word>slices?|sl|s|z|img|im|image|frame|ax)(?P<between>[ _.-]?)[0-9]+(?:of[0-9]+)?$",
    re.IGNORECASE,
)
_LONGEST_DROPPED = 3  # digits, in a number that may hold a patient and a time point
_FEWEST_NAMES = 5  # names without a number that may be patients; fewer are sites or classes


_HASH = re.compile("(?=.*[0-9])(?=.*[a-fA-F])[0-9a-fA-F]{8,}")  # its letters and digits mean nothing by themselves
_MERGED = "each source by itself"
_SPLIT = "the number without its last"


@dataclass(frozen=True)
class Candidate:
    """A possible reading of all ids.

    Attributes:
        title: what the pattern takes for the patient, in words.
        pattern: regular expression that matches every id; its group (the one that takes part) is the patient.
        patients: case id → patient.
        rests: case id → the id without its patient.
    """

    title: str
    pattern: str
    patients: dict[str, str]
    rests: dict[str, str]

    @property
    def option(self) -> str:
        """The option to paste into a shell."""
        return f"--patient-pattern {shlex.quote(self.pattern)}"

    @property
    def splits_numbers(self) -> bool:
        """Whether the patient ends within a number."""
        return self.title.startswith(_SPLIT)

    @property
    def number(self) -> int:
        """Number of patients."""
        return len(set(self.patients.values()))

    def groups(self) -> list[list[str]]:
        """The cases of each patient."""
        groups: dict[str, list[str]] = {}
        for case, patient in self.patients.items():
            groups.setdefault(patient, []).append(case)
        return list(groups.values())


def candidates_for(identifiers: Sequence[str]) -> list[Candidate]:
    """Up to six readings with different patients: plausible ones (``plausible_readings``), every case is one, others.

    Of each kind those with fewer patients come first.
    """
    readings = _readings(identifiers)
    plausible = _plausible(readings)
    several = [reading for reading in readings if 1 < reading.number < len(identifiers)]
    chosen = [*plausible, *(reading for reading in several if reading not in plausible)][: MOST_SHOWN - 1]
    every = _reading("every case is a patient", EVERY_CASE, identifiers)
    if every:
        chosen.append(every)
    return sorted(chosen, key=lambda reading: (reading not in plausible, reading is not every, reading.number))


def plausible_readings(identifiers: Sequence[str]) -> list[Candidate]:
    """Readings by which several cases belong to one patient and which make sense, the one with the fewest first.

    Numbers alone never make sense of ``BRATS_001``, ``BRATS_002``: the only reading that puts several of these together
    puts all together, or cuts a number in the middle. What makes sense: the rest of an id, without the patient, is from
    a vocabulary that patients share (``_t0``, ``_L``, ``_s003``), or is a date or a named slice; or numbers of one
    length have gaps so that all but their last digits count patients (``0800 0801 0900 0901``).
    """
    return sorted(_plausible(_readings(identifiers)), key=lambda reading: reading.number)


def slices_of_series(identifiers: Sequence[str]) -> Candidate | None:
    """The reading "without the slice number", if what is before the number has a number itself and names no source.

    Whoever the patients are, slices of a series are of one patient.
    """
    reading = next((r for r in _readings(identifiers) if r.title == "without the slice number"), None)
    if reading is None or not all(re.search("[0-9]", patient) for patient in reading.patients.values()):
        return None
    sources = any(len(words := _words(patient)) == 1 and is_source(words[0]) for patient in reading.patients.values())
    return None if sources or not 1 < reading.number < len(identifiers) else reading


def examples(patients: Mapping[str, str]) -> list[str]:
    """Three cases that show a reading: two of the first patient who has several, and one of another."""
    groups: dict[str, list[str]] = {}
    for case in sorted(patients):
        groups.setdefault(patients[case], []).append(case)
    first = next((cases for cases in groups.values() if len(cases) > 1), [])
    others = [cases[0] for cases in groups.values() if cases is not first]
    return (first[:2] + others + first[2:])[:3]


# ---- patterns ----


def _readings(identifiers: Sequence[str]) -> list[Candidate]:
    """All candidates that match every id, in the order of ``_patterns``; of equal groups one that makes sense."""
    readings: dict[frozenset, Candidate] = {}
    for title, pattern in _patterns(sorted(identifiers)):
        reading = _reading(title, pattern, identifiers)
        if reading is not None:
            groups = frozenset(map(frozenset, reading.groups()))
            if groups not in readings or (_makes_sense(reading) and not _makes_sense(readings[groups])):
                readings[groups] = reading
    return list(readings.values())


def _reading(title: str, pattern: str, identifiers: Sequence[str]) -> Candidate | None:
    patients, rests = {}, {}
    compiled = re.compile(pattern)
    for identifier in identifiers:
        match = compiled.fullmatch(identifier)
        if match is None or not match[match.lastindex or 0]:
            return None
        group = match.lastindex or 0  # patterns have one group, and one of several alternatives matches
        patients[identifier] = match[group]
        rests[identifier] = f"{identifier[: match.start(group)]}\0{identifier[match.end(group) :]}"
    return Candidate(title, pattern, patients, rests) if patients else None


def _patterns(identifiers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Title and pattern of each candidate; the most usual first, since equal groups are offered once."""
    separator, part = _separator_and_part(identifiers)
    if counter := _counter(identifiers):
        yield "without the slice number", _optional_if_needed(identifiers, "(.+{lazy})", counter)
    if any("sub-" in identifier.lower() for identifier in identifiers):
        yield "the BIDS subject", r"(.*?(?i:sub)-[A-Za-z0-9]+).*"
    yield "up to the first number", r"([^0-9]*[0-9]+).*"
    yield from _with_patient_word(identifiers, separator)
    if separator:
        yield "without the last part", _optional_if_needed(identifiers, "(.+{lazy})", separator + part)
    yield "the letters at the beginning", r"([A-Za-z]+).*"
    yield "the first number", r"[^0-9]*([0-9]+).*"
    yield "the first number without zeros before it", r"[^0-9]*0*([0-9]+?)(?:[^0-9].*)?"
    yield from _split_numbers(identifiers)
    yield "up to the second number", r"([^0-9]*[0-9]+[^0-9]+[0-9]+).*"
    yield "up to the second number, if there is one", r"([^0-9]*[0-9]+(?:[^0-9]+[0-9]+)?).*"
    if separator:
        yield "the last part", f"(?:.*{separator})?({part})"
        yield "without the first part", f"{part}{separator}(.+)"
        yield "without the first and the last part", f"{part}{separator}(.+){separator}{part}"
        yield "the second part", f"{part}{separator}({part}).*"
        yield "without the last two parts", f"(.+){separator}{part}{separator}{part}"
        yield "the first two parts", f"({part}{separator}{part}).*"
        yield "the first part", f"({part}).*"
    yield "the last number", r"(?:.*[^0-9])?([0-9]+)[^0-9]*"
    yield "without the letters at the end", r"(.*[0-9])[A-Za-z]*"
    yield from _source_by_source(identifiers)


def _separator_and_part(identifiers: Sequence[str]) -> tuple[str, str]:
    """Expressions for a separator and for a part between separators, of those in use; empty if there is none."""
    used = "".join(character for character in "/ _.-" if any(character in identifier for identifier in identifiers))
    separator = f"[{used}]" if len(used) > 1 else _literal(used)
    return separator, f"[^{used}]+" if used else ""


def _optional_if_needed(identifiers: Sequence[str], patient: str, rest: str) -> str:
    """A pattern of a patient and a rest, in which the rest is optional unless every id has it."""
    strict = patient.format(lazy="") + rest
    if all(re.fullmatch(strict, identifier) for identifier in identifiers):
        return strict
    return f"{patient.format(lazy='?')}(?:{rest})?"


def _counter(identifiers: Sequence[str]) -> str:
    """Expression for the slice counters at the ends of ids; empty if no id has one."""
    found = [match for identifier in identifiers if (match := _COUNTER.search(identifier))]
    words = sorted({_literal(match["before"] + match["word"] + match["between"]) for match in found}, key=_longest)
    if not words:
        return ""
    counter = (words[0] if len(words) == 1 else f"(?:{'|'.join(words)})") + "[0-9]+"
    if any("of" in match[0].lower() for match in found):
        counter += "(?:of[0-9]+)?"
    return counter


def _literal(text: str) -> str:
    """Expression for separators and letters; unlike ``re.escape`` it leaves ``-`` as it is."""
    return text.replace(".", r"\.")


def _longest(text: str) -> tuple[int, str]:
    return -len(text), text


def _with_patient_word(identifiers: Sequence[str], separator: str) -> Iterator[tuple[str, str]]:
    """The patient is where a word such as ``pat`` or ``p`` with a number is, with or without what precedes it."""
    before = f"(?:.*?{separator})?" if separator else ""
    between = f"{separator}?" if separator else ""
    for word in PATIENT_WORDS:
        patient = f"(?i:{word}){between}[0-9]+"
        if all(re.fullmatch(f"{before}{patient}.*", identifier) for identifier in identifiers):
            yield f"up to {word} and its number", f"({before}{patient}).*"
            yield f"{word} and its number", f"{before}({patient}).*"


def _split_numbers(identifiers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """All but the last digits of the number at the end (or before the slice counter), if all numbers are as long."""
    counter = _counter(identifiers)
    numbers = [re.search(f"([0-9]*){counter}$", identifier) for identifier in identifiers]
    lengths = {len(number[1]) if number else 0 for number in numbers}
    length = lengths.pop() if len(lengths) == 1 else 0
    dropped = sorted(range(1, min(length, _LONGEST_DROPPED + 1)), key=lambda n: (2 * n != length, n))
    for number in dropped:
        digits = "[0-9]" if number == 1 else f"[0-9]{{{number}}}"
        end = "digit" if number == 1 else f"{number} digits"
        yield f"{_SPLIT} {end}{' before the slice number' if counter else ''}", f"(.+){digits}{counter}"


def _source_by_source(identifiers: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Where ids begin with a few different words, as in a merged dataset: the plausible reading of each on its own."""
    sources: dict[str, list[str]] = {}
    for identifier in identifiers:
        sources.setdefault(re.match("[A-Za-z]*", identifier)[0], []).append(identifier)  # type: ignore[index]
    if not 1 < len(sources) < _FEWEST_NAMES or "" in sources:
        return
    patterns = []
    for source, ids in sorted(sources.items()):
        reading = next(iter(plausible_readings(ids)), None)
        patterns.append(f"(?={source}(?![A-Za-z])){reading.pattern if reading else EVERY_CASE}")
    yield _MERGED, "|".join(patterns)


# ---- which candidates make sense ----


def _plausible(readings: Iterable[Candidate]) -> list[Candidate]:
    sensible = [reading for reading in readings if _makes_sense(reading)]
    numbered = [reading for reading in sensible if any(c.isdigit() for p in reading.patients.values() for c in p)]
    return numbered or [reading for reading in sensible if reading.number >= _FEWEST_NAMES]


def _makes_sense(reading: Candidate) -> bool:
    named = reading.patients.items()
    if not 1 < reading.number < len(named) or not _are_names(set(reading.patients.values())):
        return False
    if reading.title == _MERGED:
        return True  # made of plausible readings
    if reading.splits_numbers:
        return _counts_within_patients(reading)
    if _cuts_a_number(reading):
        return False
    befores = {rest.partition("\0")[0].casefold() for rest in reading.rests.values()}
    if len({before for before in befores if COHORT_WORDS.intersection(_words(before))}) > 1:
        return False  # numbers begin anew in train_001 and test_001
    if len(befores) == 1 or not all(map(_is_a_kind, befores)):
        for case, patient in named:
            before = reading.rests[case].partition("\0")[0]
            if not _may_precede(before, patient) and not (len(befores) == 1 and _is_name(before + patient)):
                return False
    rests = [rest.casefold() for rest in reading.rests.values() if rest != "\0"]
    return len(set(rests)) <= 0.9 * len(rests) or all(map(_says_what_it_is, rests))


def _words(text: str) -> list[str]:
    return re.findall("[a-z]+", text.casefold())


def _is_a_kind(before: str) -> bool:
    """Whether what precedes a number are words for times, sides or series only: ``prone01``, ``sub-pre01``."""
    words = [word for word in _words(before) if word != "sub"]
    return bool(words) and not re.search("[0-9]", before) and all(map(means_something_else, words))


def _may_precede(before: str, patient: str) -> bool:
    """Whether a bare number can be a patient behind what precedes it: ``pre_001`` yes, ``p1v1`` and ``site1_2`` no."""
    return not before or not patient.isdigit() or (not before[-1].isalnum() and _says_what_it_is(before))


def _cuts_a_number(reading: Candidate) -> bool:
    """Whether a digit of the patient is followed or preceded by a digit of the rest."""
    for case, patient in reading.patients.items():
        before, _, after = reading.rests[case].partition("\0")
        if (before[-1:] + patient[:1]).isdigit() and before or (patient[-1:] + after[:1]).isdigit() and after:
            return True
    return False


def _are_names(patients: set[str]) -> bool:
    """Whether these can be patients: not sites, slices, time points or dates; all with a number, or none."""
    return all(map(_is_name, patients)) and len({bool(re.search("[0-9]", patient)) for patient in patients}) == 1


def _is_name(patient: str) -> bool:
    if any(_HASH.fullmatch(part) for part in re.split("[^0-9A-Za-z]+", patient)):
        return True
    tokens = re.findall("[A-Za-z]+|[0-9]+", patient)
    words = [token for token in tokens if token.isalpha()]
    if not tokens or (words and all(map(means_something_else, words))):
        return False
    if len(tokens) > 1 and tokens[-1].isdigit() and tokens[-2].casefold() in PLACE_WORDS - COHORT_WORDS:
        return False
    numbers = [k for k, token in enumerate(tokens) if token.isdigit()]
    return not numbers or any(
        not is_date(tokens[k]) and not (k and means_something_else(tokens[k - 1])) for k in numbers
    )


def _says_what_it_is(rest: str) -> bool:
    """Whether the rest of an id is, or contains, a date or a number with a word for a slice, time point or series."""
    tokens = re.findall("[A-Za-z]+|[0-9]+", rest)
    return not tokens or any(is_date(token) if token.isdigit() else means_something_else(token) for token in tokens)


def _counts_within_patients(reading: Candidate) -> bool:
    """Whether the dropped digits count within patients: from the same start, without gaps, never through all values."""
    counts: dict[str, set[int]] = {}
    for case, patient in reading.patients.items():
        digits = re.match("\0([0-9]+)", reading.rests[case])
        if digits is None:
            return False
        counts.setdefault(patient, set()).add(int(digits[1]))
        full = 10 ** len(digits[1]) - 1
    starts = {min(numbers) for numbers in counts.values()}
    return (
        len(starts) == 1
        and starts <= {0, 1}
        and all(max(numbers) - min(numbers) + 1 == len(numbers) for numbers in counts.values())
        and all(max(numbers) < full for numbers in counts.values())
        and 1 < sum(map(len, counts.values())) / len(counts) <= MOST_SCANS
        and _number_varies(reading)
    )


def _number_varies(reading: Candidate) -> bool:
    """Whether patients that have the same name before their number differ in the number."""
    names = {re.sub("[0-9]+$", "", patient) for patient in reading.patients.values()}
    return len(names) < reading.number
