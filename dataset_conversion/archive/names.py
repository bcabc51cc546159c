"""Patients that the names of numbered pictures suggest."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SLICE_SUFFIX = re.compile(r"^(?P<patient>.+?)[ _.-]+(?:slice|sl|s|z|img|im)[ _.-]?\d+$", re.IGNORECASE)
_TWO_NUMBERS = re.compile(r"^(?P<patient>.*\d.*?)[ _.-]+\d+$")


def patients_of(identifiers: Sequence[str]) -> dict[str, str]:
    """Maps each name to a patient: the name without a slice counter, or without the second of two numbers."""
    patients = {i: m["patient"] if (m := _SLICE_SUFFIX.match(i)) else i for i in identifiers}
    if len(set(patients.values())) < len(patients):
        return patients
    patients = {i: m["patient"] for i in identifiers if (m := _TWO_NUMBERS.match(i))}
    if len(patients) == len(set(identifiers)) and len(set(patients.values())) >= min(3, len(patients)):
        return patients
    return {i: i for i in identifiers}
