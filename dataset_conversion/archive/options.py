"""How an archive is to be read, as its owner says it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nnunet_difflung.errors import BadInput

KINDS = ("dicom", "volumes", "slices")


@dataclass(frozen=True)
class ArchiveOptions:
    """How to read an archive.

    Attributes:
        kind: one of ``KINDS``; None finds it by content.
        image: regular expression for the paths of images, searched below the archive's folder.
        masks: the same for label maps. With one of the two given the other is the rest; files that neither
            expression matches are left out where both are given.
        patient_pattern: regular expression for a whole name; its first group is the patient.
        series: for DICOM, folder or number of slices of the series to take.
        pixel_spacing: mm; for slices whose files hold none.
    """

    kind: str | None = None
    image: str | None = None
    masks: str | None = None
    patient_pattern: str | None = None
    series: str | None = None
    pixel_spacing: float | None = None


def compiled(option: str, pattern: str) -> re.Pattern:
    """A regular expression given by the user.

    Raises:
        BadInput: it is none.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise BadInput(f"{option} {pattern!r} is not a regular expression ({error}); correct it") from error


def patient_by(pattern: str, name: str) -> str:
    """First group, or all, of the match of a whole name.

    Raises:
        BadInput: no match.
    """
    match = compiled("--patient-pattern", pattern).fullmatch(name)
    if not match:
        raise BadInput(
            f"--patient-pattern {pattern!r} does not match the name {name!r}; it has to match every whole "
            f"name that --list shows, with the patient as its first group, such as '(.+)_[0-9]+'"
        )
    return (match[1] if match.groups() else match[0]) or name
