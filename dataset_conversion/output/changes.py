"""The end of a conversion: what was dropped, merged, moved, guessed or reinterpreted, counted by kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.runtime.files import read_json

NOTHING = "Nothing was dropped, merged, moved, guessed or reinterpreted."
REPORT = "conversion_report.json"
MOST_ROWS = 12
MOST_PATIENTS = 8


@dataclass(frozen=True)
class Change:
    """A row of the table: what happened to how many things in how many patients."""

    kind: str
    count: int
    what: str
    patients: int


def changes_of(report: Mapping) -> tuple[list[Change], int]:
    """The rows of the table, and the number of further rows that do not fit.

    Args:
        report: content of ``conversion_report.json``.

    Returns:
        At most ``MOST_ROWS`` rows in the order of the kinds, those with most patients first; if there are more, the
        rows with the fewest patients are left out.
    """
    rows = [
        Change(kind, row["count"], what, row["patients"])
        for kind, by_what in report.get("changes", {}).items()
        for what, row in by_what.items()
    ]
    order = list(dict.fromkeys(row.kind for row in rows))
    rows.sort(key=lambda row: (-row.patients, -row.count, row.what))
    shown, more = rows[:MOST_ROWS], max(0, len(rows) - MOST_ROWS)
    return sorted(shown, key=lambda row: order.index(row.kind)), more


def further(more: int) -> str:
    """The line below a table that leaves out rows."""
    return f"and {more} more kind{'s' * (more != 1)} of change, see {REPORT}"


def doubtful(report: Mapping) -> list[str]:
    """The patients whose derived lung mask may be wrong, sorted."""
    return sorted(name for name, patient in report["patients"].items() if patient.get("doubts"))


def changes_text(folder: Path, unit: str = "patients") -> str:
    """What the conversion changed, as text for the terminal.

    Args:
        folder: of the converted dataset.
        unit: what the patients are called.
    """
    return "\n".join(changes_lines(read_json(folder / REPORT), unit))


def changes_lines(report: Mapping, unit: str = "patients") -> list[str]:
    """The lines of ``changes_text``, from the content of ``conversion_report.json``."""
    rows, more = changes_of(report)
    if not rows:
        return [NOTHING]
    one = unit.removesuffix("s")
    lines = ["Changed on the way from the archive to the dataset (the notes of each patient are in the report):"]
    kind = max(len(row.kind) for row in rows)
    count = max(len(str(row.count)) for row in rows)
    for row in rows:
        in_patients = f" (in {row.patients} {unit if row.patients != 1 else one})" if row.patients else ""
        lines.append(f"  {row.kind:<{kind}}  {row.count:>{count}}  {row.what}{in_patients}")
    if more:
        lines.append(f"  {further(more)}")
    names = doubtful(report)
    if names:
        listed = ", ".join(names[:MOST_PATIENTS]) + (", …" if len(names) > MOST_PATIENTS else "")
        lines.append(f"Warning: the derived lung mask may be wrong; look first at {listed}")
    return lines
