"""Options that say how an archive is to be read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.dataset_conversion.accept import Accept
from nnunet_difflung.dataset_conversion.files.spelling import composed
from nnunet_difflung.errors import BadInput

KINDS = ("dicom", "volumes", "slices")


@dataclass(frozen=True)
class ArchiveOptions:
    """How to read an archive.

    Attributes:
        kind: one of ``KINDS``; None to find it out from the files.
        image: regular expression, searched in the paths (relative to the archive's folder) of images.
        masks: the same for label maps. If only one of the two is given, all remaining files have the other role; if
            both are given, files that neither expression matches are left out.
        patient_pattern: regular expression that matches a whole name; its first group is the patient.
        patients: instead of the pattern: file that says which picture or scan belongs to which patient.
        series: for DICOM: the series to take where a patient has several, see ``dicom.series.matches``;
            ``p1=thin`` is for the patient ``p1`` alone.
        pixel_spacing: for slices whose files do not give it: pixel size in mm.
        exclude: patients to leave out, as ``--exclude`` names them.
        accept: changes of labels or intensities that the user accepts, see ``accept``.
    """

    kind: str | None = None
    image: str | None = None
    masks: str | None = None
    patient_pattern: str | None = None
    patients: Path | None = None
    series: tuple[str, ...] = ()
    pixel_spacing: float | None = None
    accept: frozenset[Accept] = frozenset()
    exclude: tuple[str, ...] = ()


def compiled(option: str, pattern: str) -> re.Pattern:
    """A regular expression given by the user.

    Raises:
        BadInput: the pattern is not a regular expression.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise BadInput(f"{option} {pattern!r} is not a regular expression ({error}); correct it") from error


def patient_by(pattern: str, name: str) -> str:
    """The patient of a name: the first group of the pattern (that takes part), or the whole name if it has no group.

    Raises:
        BadInput: the pattern does not match the whole name, or reads no patient from it.
    """
    match = compiled("--patient-pattern", composed(pattern)).fullmatch(composed(name))
    if not match:
        raise BadInput(
            f"--patient-pattern {pattern!r} does not match the name {name!r}; expected an expression that matches "
            f"every name that --list shows as a whole, with the patient as its first group, such as '(.+)_[0-9]+'"
        )
    patient = match[0] if not match.re.groups else next((group for group in match.groups() if group is not None), "")
    if not patient:
        raise BadInput(
            f"--patient-pattern {pattern!r} reads no patient from the name {name!r}: its first group is empty; "
            f"write it so that the group holds the patient, such as '(.+)_[0-9]+'"
        )
    return patient
