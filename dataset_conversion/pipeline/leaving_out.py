"""Patients that cannot be converted, listed together, and patients that are left out of a conversion."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from nnunet_difflung.dataset_conversion.archive.grouping import Grouping
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.dataset_conversion.pipeline.patients import safe_name
from nnunet_difflung.dataset_conversion.sources import Listing, Source
from nnunet_difflung.errors import BadInput

MOST_LISTED = 20  # faulty patients in a message; so many stop a conversion
_EXCLUDED = "--exclude"


@dataclass(frozen=True)
class LeftOut:
    """A patient that is left out.

    Attributes:
        name: of the patient in the archive.
        fault: why the patient cannot be converted; ``""`` if ``--exclude`` names the patient.
    """

    name: str
    fault: str = ""

    def note(self, anonymous: bool) -> Note:
        """For the report; without names of patients and files if ``anonymous``."""
        what = "patients that cannot be converted, left out" if self.fault else "patients left out by --exclude"
        text = f"{self.name} was left out: {self.fault or _EXCLUDED}"
        return Note(what if anonymous else text, Kind.DROPPED, what=what)


def add_leaving_out_options(group: argparse._ActionsContainer) -> None:
    """Adds ``--exclude`` and ``--skip-faulty``."""
    group.add_argument(
        "--exclude",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATIENT",
        help="leave these patients out; * stands for any characters, as in 'site2*'",
    )
    group.add_argument(
        "--skip-faulty",
        action="store_true",
        help="go on without the patients that cannot be converted; they are listed at the end (default: stop, and list "
        "them together)",
    )


def excluded(names: Sequence[str], patterns: Sequence[str], folder: Path) -> set[str]:
    """The patients that ``--exclude`` means.

    Args:
        names: of all patients.
        patterns: values of ``--exclude``.
        folder: of the archive, for messages.

    Raises:
        BadInput: a pattern matches no patient, or all patients are excluded.
    """
    out: set[str] = set()
    for pattern in patterns:
        matching = _matching(pattern, names)
        if not matching:
            nearest = get_close_matches(pattern, names, cutoff=0.4) or names[:5]
            raise BadInput(
                f"--exclude {pattern}: {folder} has no such patient; expected a name that --list shows, such as "
                f"{', '.join(nearest)}"
            )
        out |= matching
    if out and len(out) == len(names):
        raise BadInput(f"--exclude leaves out all {len(names)} patients of {folder}; leave at least one patient in")
    return out


def without(out: Collection[str], sources: Sequence[Source], grouping: Grouping) -> tuple[list[Source], Grouping]:
    """The scans and the grouping without some patients."""
    kept = [
        (name, patient) for name, patient in zip(grouping.names, grouping.patients, strict=True) if patient not in out
    ]
    left = replace(grouping, names=tuple(name for name, _ in kept), patients=tuple(patient for _, patient in kept))
    return [source for source in sources if source.patient not in out], left


def _matching(pattern: str, names: Sequence[str]) -> set[str]:
    """The patients that a pattern means: by the name, by the name in the dataset, or with ``*``."""
    plain = unicodedata.normalize("NFC", pattern)
    spelled = {name: unicodedata.normalize("NFC", name) for name in names}
    return (
        {name for name in names if spelled[name] == plain}
        or {name for name in names if _safe(name) == pattern}
        or {name for name in names if fnmatchcase(spelled[name], plain)}
    )


def _safe(name: str) -> str:
    try:
        return safe_name(name)
    except BadInput:
        return ""


def faults(listings: Sequence[Listing]) -> dict[str, str]:
    """Patient → why the patient cannot be converted, as far as listings tell."""
    problems: dict[str, list[str]] = {}
    for listing in listings:
        if listing.problems:
            problems.setdefault(listing.patient, []).extend(listing.problems)
    # a file that cannot be read may be the label map that an image seems to lack
    return {
        name: next((problem for problem in of_patient if "cannot be read" in problem), of_patient[0])
        for name, of_patient in problems.items()
    }


def refusal(of_patients: Mapping[str, str], total: int, given_up: bool = False) -> BadInput:
    """The error that lists all patients that cannot be converted.

    Args:
        of_patients: patient → why the patient cannot be converted; not empty.
        total: number of patients in the archive.
        given_up: whether the other patients were not tried, since the first ones all failed.
    """
    names = list(of_patients)
    number = len(names)
    fault = next((fault for fault in of_patients.values() if "cannot be read" in fault), of_patients[names[0]])
    if total == 1:
        return BadInput(fault)
    if number == 1:
        exclude = f"--exclude {shlex.quote(names[0])}"
        return BadInput(
            f"{fault}; or leave this patient out with {exclude}, or all patients that cannot be converted with "
            f"--skip-faulty"
        )
    lines = [" ".join(f"{name}: {fault}".split()) for name, fault in list(of_patients.items())[:MOST_LISTED]]
    if number > MOST_LISTED:
        lines.append(f"and {number - MOST_LISTED} more")
    if given_up:
        how = f"none of the first {number} patients can be converted, the others were not tried"
    elif number == total:
        how = f"none of the {total} patients can be converted"
    else:
        exclude = f"--exclude {shlex.join(names)}" if number <= 8 else "--exclude PATIENT …"
        how = f"{number} of {total} patients cannot be converted: leave them out with {exclude} or with --skip-faulty"
    return BadInput(f"{fault} ({how})", lines)


def left_out_text(manifest: Path) -> str:
    """How many patients a conversion has left out and why, for people; ``""`` if it has left out none.

    Args:
        manifest: ``difflung_conversion.json`` of the dataset.
    """
    content = json.loads(manifest.read_text(encoding="utf-8"))
    left_out = content.get("left_out", [])
    if not left_out:
        return ""
    total = len(left_out) + len(content["patients"])
    lines = [f"  {entry['name']}: {entry['reason']}" for entry in left_out[:MOST_LISTED] if "name" in entry]
    if lines and len(left_out) > MOST_LISTED:
        lines.append(f"  and {len(left_out) - MOST_LISTED} more, see {manifest}")
    return "\n".join(["Left out:"] * bool(lines) + [*lines, f"{len(left_out)} of {total} patients were left out.\n"])


def left_out_entries(left_out: Sequence[LeftOut], anonymous: bool) -> list[dict[str, str]]:
    """Entries of the manifest; without names of patients and files if ``anonymous``."""
    if anonymous:
        return [{"reason": "cannot be converted" if patient.fault else _EXCLUDED} for patient in left_out]
    return [{"name": patient.name, "reason": patient.fault or _EXCLUDED} for patient in left_out]


def reasons_for_readers(left_out: Sequence[LeftOut], anonymous: bool, archive: Path) -> list[tuple[str, str]]:
    """Patients and why they were left out, for a report that may leave this machine.

    Args:
        left_out: the patients.
        anonymous: whether to leave out names of patients and files.
        archive: folder of the archive, of which only what is below it is told.
    """
    if anonymous:
        return [("–", entry["reason"]) for entry in left_out_entries(left_out, anonymous)]
    whole = archive.resolve()
    folders = {f"{folder}{os.sep}" for folder in (archive, whole, archive.absolute().parent, whole.parent)}
    reasons = []
    for patient in left_out:
        reason = patient.fault or _EXCLUDED
        for folder in sorted(folders, key=len, reverse=True):
            reason = reason.replace(folder, "")
        reasons.append((patient.name, reason))
    return reasons
