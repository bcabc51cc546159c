"""Patients of case ids: what an id says by itself, what a pattern says, and the refusal where neither is known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from nnunet_difflung.errors import BadInput
from nnunet_difflung.patients.candidates import candidates_for, examples
from nnunet_difflung.patients.doubts import doubt_of
from nnunet_difflung.patients.words import PATIENT_WORDS, could_be_patient, could_be_subject, is_date, is_ending

# A slice counter at the end of an id, spelled out and set off: _s012, _z7, -slice3, _slice_3.
_COUNTER = re.compile(r"[ _.-]+(?:slice|sl|s|z|img|im)[ _.-]?[0-9]+", re.IGNORECASE)
_SEPARATORS = re.compile(r"[ _.-]+")
_NUMBERED = re.compile(r"(?P<word>[A-Za-z]*)(?P<number>[0-9]+)")
# BIDS: "sub-<label>" begins the name of every file of a subject; entities and a suffix follow.
# A label of several numbers (sub-01ses02), or with letters behind its number, is not trusted to be only the subject.
_BIDS = re.compile(r"(?P<subject>sub-(?P<label>[A-Za-z]*[0-9]+|[A-Za-z]+))(?:_[A-Za-z0-9]+(?:-[A-Za-z0-9]+)?)*")


class UnknownPatients(BadInput):
    """The ids do not say which cases belong to the same patient; ``details`` lists candidate readings."""


def read_id(identifier: str) -> str | None:
    """The patient that a case id names by itself, or None if the id can be read in several ways.

    Two forms are unambiguous:

    * a patient and an explicit slice counter, such as ``lung_001_s012`` or ``p003_slice_7``. The part before the
      counter has a single number, at its end, and no word for a time point, side, series, kernel or lesion;
    * a name by the BIDS standard, ``sub-<label>`` with entities behind it, such as ``sub-01_ses-02_ct``: the standard
      says that the label is the subject.

    A single number (``case_001``) is ambiguous: the number of a patient, or of a picture of ``case``.
    """
    if bids := _BIDS.fullmatch(identifier):
        return bids["subject"] if could_be_subject(bids["label"]) else None
    counter = re.search(rf"{_COUNTER.pattern}$", identifier, re.IGNORECASE)
    if counter is None or not counter.start():
        return None
    patient = identifier[: counter.start()]
    return patient if _is_plain(patient) else None


def _is_plain(name: str) -> bool:
    """Whether a name is words and one number at the end, and none of them means something else than a patient."""
    *words, last = _SEPARATORS.split(name)
    numbered = _NUMBERED.fullmatch(last)
    if not numbered or not all(word.isascii() and word.isalpha() for word in words):
        return False
    if numbered["word"]:
        words.append(numbered["word"])
    joined = "".join(words[-2:]) if words and is_ending(words[-1]) else ""  # image_id_001 is imageid_001
    if not words or not all(could_be_patient(word, numbered=True) for word in {words[-1], joined or words[-1]}):
        return False
    if is_date(numbered["number"]) and not (len(numbered["number"]) == 4 and words[-1].casefold() in PATIENT_WORDS):
        return False
    return all(could_be_patient(word, numbered=False) for word in words[:-1])


def read_ids(identifiers: Sequence[str], what: str = "case ids", also: str = "--patients FILE") -> dict[str, str]:
    """Case id → patient where each id says it by itself (see ``read_id``).

    Args:
        identifiers: the ids.
        what: what they are, for the message.
        also: the option for a file of patients, for the message.

    Raises:
        UnknownPatients: an id can be read in several ways, or the ids together can (see ``patients.doubts``).
    """
    patients = {identifier: read_id(identifier) for identifier in identifiers}
    unread = [identifier for identifier, patient in patients.items() if patient is None]
    if unread:
        raise unknown_patients(identifiers, f"such as {unread[0]!r}", what, also)
    read = {identifier: str(patient) for identifier, patient in patients.items()}
    if doubt := doubt_of(read):
        raise unknown_patients(identifiers, doubt, what, also)
    return read


def are_readable(identifiers: Iterable[str]) -> bool:
    """Whether ``read_ids`` would accept the ids."""
    read = {identifier: read_id(identifier) for identifier in identifiers}
    return None not in read.values() and not doubt_of({case: str(patient) for case, patient in read.items()})


def unknown_patients(
    identifiers: Sequence[str], why: str, what: str = "case ids", also: str = "--patients FILE"
) -> UnknownPatients:
    """The refusal of ids whose patients are not known; its ``details`` are candidate readings with the option for each.

    Args:
        identifiers: the ids.
        why: an example or the reason, in brackets after the number of ids.
        what: what the ids are.
        also: the option for a file of patients.
    """
    message = (
        f"the patients cannot be told from the {len(identifiers)} {what} ({why}): several of them may belong to one "
        f"patient; add the option of the reading below that is right, or list the patient of each in a file with the "
        f"columns case,patient and give {also}"
    )
    return UnknownPatients(message, _listed(identifiers))


def _listed(identifiers: Sequence[str]) -> list[str]:
    lines = []
    for candidate in candidates_for(identifiers):
        number = len(set(candidate.patients.values()))
        shown = ", ".join(f"{case} → {candidate.patients[case]}" for case in examples(candidate.patients))
        lines.append(f"{number} patient{'s' if number > 1 else ''} ({candidate.title}): {shown}")
        lines.append(f"    {candidate.option}")
    return lines


def by_pattern(identifiers: Iterable[str], pattern: str) -> dict[str, str]:
    """Case id → patient, by a regular expression that matches a whole id.

    Args:
        identifiers: the ids.
        pattern: its first group (that takes part, in a pattern with alternatives; without groups: the whole match) is
            the patient.

    Raises:
        BadInput: the pattern is not a regular expression, does not match an id, or gives an empty patient.
    """
    return {identifier: _patient(identifier, pattern) for identifier in identifiers}


def _patient(identifier: str, pattern: str) -> str:
    try:
        match = re.fullmatch(pattern, identifier)
    except re.error as error:
        raise BadInput(f"--patient-pattern {pattern!r} is not a regular expression ({error})") from error
    if not match:
        raise BadInput(
            f"--patient-pattern {pattern!r} does not match the case id {identifier!r}; it has to match "
            f"every whole id, with the patient as its first group, such as '(.+)_s[0-9]+'"
        )
    patient = next((group for group in match.groups() if group is not None), match[0] if not match.re.groups else "")
    if not patient:
        raise BadInput(
            f"--patient-pattern {pattern!r} reads no patient from the case id {identifier!r}: its first group is "
            f"empty; write it so that the group holds the patient, such as '(.+)_s[0-9]+'"
        )
    return patient


def same_partition(first: Mapping[str, str], second: Mapping[str, str]) -> bool:
    """Whether two readings put the same cases together, whatever they call the patients; only common cases count."""
    common = [case for case in first if case in second]
    pairs = {(first[case], second[case]) for case in common}
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
