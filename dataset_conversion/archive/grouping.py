"""Which pictures or scans of an archive belong to one patient, and where that is known from.

``--patients`` or ``--patient-pattern`` states the patients; else DICOM headers tell them, or names that leave no doubt.
Paths are read part by part, with the reading that also serves case ids (``dataset.patients``):

- a *scan* (a volume, a DICOM patient's folder) is told by the only part of its path that can be a patient's name:
  ``p07``, ``p07/2019``, ``siteA/LIDC-IDRI-0001``. A bare number counts as one, since it numbers scans and not slices;
- a *picture* is told by a slice counter (``p07_s012``), or by the only folder that can be a patient's name
  (``p07/012``). A number alone says nothing: 250 numbered pictures may show 10 patients.

There is doubt where no part or several parts can be the patient, where a patient lies in several folders, where
patients differ in spelling only, and where by another reading that makes sense several of them are one.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions, patient_by
from nnunet_difflung.dataset_conversion.files.image_files import stem
from nnunet_difflung.dataset_conversion.files.spelling import composed
from nnunet_difflung.errors import BadInput
from nnunet_difflung.patients.candidates import Candidate, examples, plausible_readings
from nnunet_difflung.patients.doubts import doubt_of
from nnunet_difflung.patients.ids import UnknownPatients, read_id, unknown_patients
from nnunet_difflung.patients.table import read_patients_file
from nnunet_difflung.patients.words import is_date

_NAMES = {"slices": "names of the pictures", "volumes": "names of the volumes", "dicom": "names of the DICOM folders"}


@dataclass(frozen=True)
class Named:
    """A picture, a volume, or the DICOM files of what may be a patient.

    Attributes:
        name: what ``--patient-pattern`` matches, such as ``p1_s00`` for ``images/p1_s00.png``; folders are separated by
            ``/``.
        path: of the file, relative to the archive; ``""`` for DICOM.
        told: the patient that DICOM headers tell, or None.
    """

    name: str
    path: str = ""
    told: str | None = None


@dataclass(frozen=True)
class Grouping:
    """The patients of an archive.

    Attributes:
        names: of the pictures or scans.
        patients: of each of them, in the same order.
        source: where they are known from.
        detail: the pattern or the file that states them, which may name patients; else ``""``.
        refusal: the error to raise before anything is converted if the patients are not known. Every picture or scan is
            then listed as a patient.
        warning: of a public set that does not say who its patients are, so that groups stand for them; else ``""``.
    """

    names: tuple[str, ...]
    patients: tuple[str, ...]
    source: str
    detail: str = ""
    refusal: UnknownPatients | None = None
    warning: str = ""

    @property
    def unit(self) -> str:
        """What the patients are, for people: ``groups`` if they only stand for patients."""
        return "groups" if self.warning else "patients"

    def examples(self) -> str:
        """Three names with their patients, for people."""
        patients = dict(zip(self.names, self.patients, strict=True))
        return ", ".join(f"{name} → {patients[name]}" for name in examples(patients))

    def text(self, anonymous: bool = False) -> str:
        """Where the patients are known from; without anything that may name a patient if ``anonymous``."""
        return self.source if anonymous or not self.detail else f"{self.source} {self.detail}"


def grouped(scans: Sequence[Named], kind: str, options: ArchiveOptions) -> Grouping:
    """Groups pictures or scans by patient.

    Args:
        scans: of the archive.
        kind: ``slices``, ``volumes`` or ``dicom``.
        options: with ``patients`` or ``patient_pattern`` if the patients are stated.

    Raises:
        BadInput: the file or the pattern is faulty, or gives no patient for some picture or scan.
    """
    names = tuple(scan.name for scan in scans)
    if options.patients is not None:
        return Grouping(names, _listed(scans, options.patients), "from --patients", options.patients.name)
    if options.patient_pattern is not None:
        patients = tuple(patient_by(options.patient_pattern, name) for name in names)
        return Grouping(names, patients, "from --patient-pattern", repr(options.patient_pattern))
    told = tuple(scan.told for scan in scans if scan.told is not None)
    if len(told) == len(scans):
        doubt = _doubt_of_headers(scans)
        source, patients = "from the DICOM headers", told
    else:
        read = [_patient_of_picture(name) if kind == "slices" else _patient_of_scan(name) for name in names]
        doubt = _doubt(names, read) or ("" if kind == "slices" else _numbered_words(read))
        source, patients = f"from the {_NAMES[kind]}", tuple(str(patient) for patient in read)
    if len(scans) == 1:
        return Grouping(names, (told or names)[:1], "there is only one")
    if doubt:
        refusal = unknown_patients(names, doubt, _NAMES[kind])
        return Grouping(names, names, "not known", refusal=refusal)
    return Grouping(names, patients, source)


# ---- what is stated ----


def _listed(scans: Sequence[Named], path: Path) -> tuple[str, ...]:
    """The patients that a file lists, by the name of a scan, its path, or its file name, with or without the ending.

    Raises:
        BadInput: the file is faulty, lacks a scan, or lists a scan under two names with different patients.
    """
    listed: dict[str, str] = {}
    for row, patient in read_patients_file(path).items():
        if listed.setdefault(composed(row), composed(patient)) != composed(patient):
            raise BadInput(
                f"{path}: {row} is listed twice, spelled in two ways in Unicode, with different patients; keep the "
                f"right row"
            )
    spellings = {scan.name: _spellings(scan) for scan in scans}
    times = Counter(spelling for of_scan in spellings.values() for spelling in of_scan)
    patients: dict[str, str] = {}
    for name, of_scan in spellings.items():
        rows = {row: listed[row] for row in sorted(of_scan) if row in listed and times[row] == 1}
        if len(set(rows.values())) > 1:
            (first, one), (second, other) = list(rows.items())[:2]
            raise BadInput(
                f"{path}: {first} and {second} are the same file, but belong to patient {one!r} and to patient "
                f"{other!r}; keep the right row"
            )
        if rows:
            patients[name] = next(iter(rows.values()))
    missing = [scan for scan in scans if scan.name not in patients]
    if missing:
        ways = " or ".join(map(repr, filter(None, (missing[0].name, missing[0].path))))
        raise BadInput(
            f"{path} does not list case {ways}, {len(missing)} of {len(scans)} cases are "
            f"missing; add a row with its patient for each, by one of these names"
        )
    return tuple(patients[scan.name] for scan in scans)


def _spellings(scan: Named) -> set[str]:
    if not scan.path:
        return {scan.name}
    path, short = PurePosixPath(composed(scan.path)), stem(composed(scan.path))
    paths = (str(path), str(path.with_name(short)))
    elsewhere = {spelling for name in paths for spelling in (f"./{name}", name.replace("/", "\\"))}
    return {scan.name, *paths, *elsewhere, path.name, short}


# ---- what names tell ----


def _patient_of_scan(name: str) -> str | None:
    """The patient of a scan by its name; None if there is doubt."""
    patients = {patient for part in name.split("/") if (patient := _patient(part) or _number(part))}
    return patients.pop() if len(patients) == 1 else None


def _patient_of_picture(name: str) -> str | None:
    """The patient of a picture by its name; None if there is doubt."""
    *folders, last = name.split("/")
    patients = {patient for folder in folders if (patient := _patient(folder))}
    if any(_number(folder) for folder in folders):
        return None
    patients |= {patient} if (patient := read_id(last) or _patient(last) if folders else read_id(last)) else set()
    return patients.pop() if len(patients) == 1 else None


def _patient(part: str) -> str | None:
    """The patient that a part of a path names by itself, as one with slices would be named or by BIDS; else None."""
    plain = unicodedata.normalize("NFKD", part).encode("ascii", "ignore").decode()
    if (patient := read_id(part)) is not None and patient.startswith("sub-"):
        return patient
    return part if read_id(f"{plain}_s0") == plain else None


def _number(part: str) -> str | None:
    return part if part.isdigit() and not is_date(part) else None


def _doubt(names: Sequence[str], patients: Sequence[str | None]) -> str:
    """Why the patients read from names may be wrong, in a few words; ``""`` if there is no doubt."""
    for name, patient in zip(names, patients, strict=True):
        if patient is None:
            return f"such as {name!r}"
    above: dict[str, str] = {}
    for name, patient in zip(names, patients, strict=True):
        folders = name.partition(str(patient))[0]
        if above.setdefault(str(patient), folders) != folders:
            return f"{patient!r} is in several folders, such as {name!r}"
    known = {name: str(patient) for name, patient in zip(names, patients, strict=True)}
    return doubt_of(known) or _other_reading(sorted(set(known.values())))


def _numbered_words(patients: Sequence[str | None]) -> str:
    """Two scans that may be of a patient ``smith``: there are ``smith_000``, ``smith_001`` and ``jones_000``."""
    words: dict[str, list[str]] = {}
    for patient in sorted({str(patient) for patient in patients}):
        words.setdefault(re.sub("[ _.-]*[0-9]+$", "", patient), []).append(patient)
    several = [scans for scans in words.values() if len(scans) > 1]
    return f"{several[0][0]!r} and {several[0][1]!r} may be the same" if several and len(words) > 1 else ""


def _other_reading(names: Sequence[str]) -> str:
    """Two names that may be one patient by a reading that makes sense; ``""`` if there is none."""
    return next(map(_two_of_one, plausible_readings(names)), "")


def _two_of_one(reading: Candidate) -> str:
    several = next(group for group in reading.groups() if len(group) > 1)
    return f"{several[0]!r} and {several[1]!r} may be the same"


def _doubt_of_headers(scans: Sequence[Named]) -> str:
    """Why the patients that DICOM headers tell may be wrong: folder names say that several of them are one.

    Only names that begin with the patient count against headers, such as ``pat7_2019``, ``pat7_2021``, and nothing that
    looks like a slice: ``TCGA-17-Z001`` is a patient, and so is ``001`` of each hospital.
    """
    read: dict[str, Named] = {}
    for scan in scans:
        patient = _patient_of_scan(scan.name) if "/" in scan.name else None
        other = scan if patient is None else read.setdefault(patient, scan)
        if other.told != scan.told:
            return f"the PatientIDs of {other.name!r} and {scan.name!r} differ, but the folders are of one patient"
    for reading in plausible_readings(sorted({scan.name for scan in scans})):
        begins = all(rest.startswith("\0") for rest in reading.rests.values())
        if begins and "slice" not in reading.title and not reading.splits_numbers:
            return _two_of_one(reading)
    return ""
