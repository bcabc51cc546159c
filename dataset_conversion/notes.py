"""Notes on what was done to a patient's files, counted by kind at the end of a conversion.

Whatever is dropped, merged, moved, guessed or reinterpreted on the way from an archive to a dataset leaves a note, so
that nothing changes in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum

DOUBT = "derived lungs in doubt: "  # begins the ``what`` of notes on a derived lung mask that may be wrong


class Kind(StrEnum):
    """What happened to the things that a note speaks of; a remark changes nothing in the result."""

    DROPPED = "dropped"
    MERGED = "merged"
    MOVED = "moved"
    GUESSED = "guessed"
    REINTERPRETED = "reinterpreted"
    REMARK = "remark"


@dataclass(frozen=True)
class Note:
    """A note on a patient.

    Attributes:
        text: one line for the report on the patient; it may name files and structures.
        kind: what happened.
        count: number of things to which it happened.
        what: the things and the reason, without names and numbers, so that notes of several patients can be counted
            together, such as ``contours moved to the nearer slice``; the text if it is empty.
    """

    text: str
    kind: Kind = Kind.REMARK
    count: int = 1
    what: str = ""

    def as_dict(self) -> dict:
        """The note for a JSON file; ``Note.of`` is the inverse."""
        return asdict(self)

    @classmethod
    def of(cls, entry: Mapping | str) -> Note:
        """A note from a JSON file; earlier versions wrote the text alone."""
        if isinstance(entry, str):
            return cls(entry)
        return cls(entry["text"], Kind(entry["kind"]), int(entry["count"]), entry["what"])


def counted(notes: Mapping[str, Iterable[Note]]) -> dict[str, dict[str, dict[str, int]]]:
    """Counts what was changed over all patients.

    Args:
        notes: patient → notes; ``""`` → notes on the archive, which belong to no patient.

    Returns:
        Kind → what → ``count`` of things and number of ``patients``, without remarks; kinds in the order of ``Kind``.
    """
    table: dict[str, dict[str, dict[str, int]]] = {kind.value: {} for kind in Kind if kind is not Kind.REMARK}
    for patient, of_patient in notes.items():
        seen: set[tuple[str, str]] = set()
        for note in of_patient:
            if note.kind is Kind.REMARK:
                continue
            what = note.what or note.text
            row = table[note.kind.value].setdefault(what, {"count": 0, "patients": 0})
            row["count"] += note.count
            row["patients"] += patient != "" and (note.kind.value, what) not in seen
            seen.add((note.kind.value, what))
    return {kind: rows for kind, rows in table.items() if rows}
