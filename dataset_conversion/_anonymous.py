"""Keeps names of patients and their files out of what an anonymous conversion writes."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from nnunet_difflung.dataset_conversion._patient_names import Patient

_MAY_NAME = ("-i", "--mapping", "--patient-pattern", "--image", "--masks", "--series")  # their values may hold names


def typed(words: Sequence[str], patients: Sequence[Patient]) -> list[str]:
    """The words of a command with patients' ids behind ``--test``, without paths and expressions that may name them."""
    ids = {patient.name: patient.patient for patient in patients}
    result, option = [], ""
    for word in words:
        if word.startswith("-i") and word != "-i":
            result.append("-i...")
        elif word.startswith("-") and not (option == "--test" and word in ids):
            option, equals, value = word.partition("=")
            result.append(f"{option}={_value(option, value, ids)}" if equals else word)
        else:
            result.append(_value(option, word, ids))
    return result


def _value(option: str, value: str, ids: Mapping[str, str]) -> str:
    if option == "--test":
        return ids.get(value, value)
    hidden = any(name == option or option.startswith("--") and name.startswith(option) for name in _MAY_NAME)
    return "..." if hidden else value


def without_files(content: Mapping) -> list[str]:
    """A patient's ``notes`` in which none of its ``files`` is named."""
    names = sorted({name for path, _ in content["files"] for name in (path, PurePosixPath(path).name)}, key=len)
    notes = []
    for note in content["notes"]:
        for name in reversed(names):
            note = note.replace(name, "a file")
        notes.append(note)
    return notes
