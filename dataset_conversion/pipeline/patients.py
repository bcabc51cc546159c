"""Names of patients and ids of their cases; and what anonymity requires."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np

from nnunet_difflung.dataset.contents import stat_key
from nnunet_difflung.dataset.splits import SYNTHETIC_PREFIX, patient_folds
from nnunet_difflung.dataset_conversion.archive.pairing import natural
from nnunet_difflung.dataset_conversion.files.spelling import composed
from nnunet_difflung.dataset_conversion.notes import Note
from nnunet_difflung.dataset_conversion.sources import Source
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.files import sha256

LONGEST = 100  # characters of a name
SCANS_APART = 10_000  # the slices of a second scan of a patient are numbered from here

_MAY_NAME = (
    "-i",
    "--mapping",
    "--patient-pattern",
    "--patients",
    "--image",
    "--masks",
    "--series",
    "--exclude",
)  # options whose values may contain names of patients


@dataclass(frozen=True)
class Patient:
    """A patient to convert.

    Attributes:
        patient: safe name, with which the ids of its cases begin.
        name: of the patient in the archive, for messages.
        sources: scans of the patient.
        test: whether it is a test patient (imagesTs, labelsTs).
    """

    patient: str
    name: str
    sources: tuple[Source, ...]
    test: bool = False

    def case_id(self, scan: int, z: int | None = None) -> str:
        """``<patient>_s012`` for slice 12, ``<patient>`` for a volume, ``<patient>_im02`` for the second of several.

        Raises:
            BadInput: the slices of a scan are so many that their numbers are those of the next scan.
        """
        if z is not None:
            if z >= SCANS_APART and len(self.sources) > 1:
                raise BadInput(
                    f"patient {self.name}: slice {z} of a scan; expected at most {SCANS_APART} slices in a scan if the "
                    f"patient has several scans: remove the other scans, or convert with --as volumes"
                )
            return f"{self.patient}_s{scan * SCANS_APART + z:03d}"
        return self.patient if len(self.sources) == 1 else f"{self.patient}_im{scan + 1:02d}"


def name_patients(sources: Sequence[tuple[str, Source]], anonymous: bool) -> list[Patient]:
    """Patients with safe names, sorted by their names in the archive.

    Args:
        sources: each with the name of its patient in the archive.
        anonymous: whether to use p001, p002, … instead of names.

    Raises:
        BadInput: a name has no letters or digits, or two patients or their cases would be called the same.
    """
    scans: dict[str, list[Source]] = {}
    for name, source in sources:
        scans.setdefault(name, []).append(source)
    names = sorted(scans, key=natural)
    safe = {name: f"p{k:03d}" if anonymous else safe_name(name) for k, name in enumerate(names, start=1)}
    patients = [Patient(safe[name], name, tuple(scans[name])) for name in names]
    seen: dict[str, str] = {}
    for patient in patients:
        several = [patient.case_id(k) for k in range(len(patient.sources))] if len(patient.sources) > 1 else []
        for identifier in (patient.patient, *several):
            other = seen.setdefault(identifier.casefold(), patient.name)
            if other != patient.name:
                raise BadInput(
                    f"patients {other!r} and {patient.name!r} would both be called {identifier}; expected names that "
                    f"differ in letters a-z or digits: rename one of them or give --anonymous"
                )
    return patients


def safe_name(name: str) -> str:
    """A name of letters, digits, ``_`` and ``-``: accents are dropped, all other characters become ``_``.

    Raises:
        BadInput: the name has no letter a-z and no digit.
    """
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss")).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9-]+", "_", plain).strip("_-")[:LONGEST].strip("_-")
    if not plain:
        raise BadInput(
            f"patient {name!r}: the name has no letter a-z and no digit; rename the patient or give --anonymous"
        )
    return f"p_{plain}" if plain.startswith(SYNTHETIC_PREFIX) else plain


def choose_test(
    patients: Sequence[Patient], names: Sequence[str], share: float | None, structures: dict[str, set[str]], seed: int
) -> list[Patient]:
    """The patients, with test patients marked.

    Args:
        patients: all patients.
        names: of the test patients, in the archive or safe.
        share: instead of ``names``: share of the patients to take as test patients, chosen so that rare structures are
            in both parts.
        structures: name of a patient → its structures.
        seed: of the choice by ``share``.

    Raises:
        BadInput: a name is unknown, or no patient remains for training.
    """
    names = [composed(name) for name in names]
    chosen = {p.patient for p in patients if composed(p.name) in names or p.patient in names}
    for name in names:
        if not any(name in (composed(p.name), p.patient) for p in patients):
            examples = ", ".join(p.name for p in patients[:5]) + (", …" if len(patients) > 5 else "")
            raise BadInput(f"--test {name}: there is no such patient; the archive has {examples}")
    if share is not None:
        if len(patients) < 2:
            raise BadInput(f"--test-share {share:g}: the archive has only one patient; expected at least 2")
        number = min(max(1, round(share * len(patients))), len(patients) - 1)
        all_structures = sorted(set().union(*structures.values()))
        drawn = {p.patient: np.array([name in structures[p.name] for name in all_structures]) for p in patients}
        folds = patient_folds(drawn, seed, max(2, round(len(patients) / number)))
        test_fold = min(folds, key=lambda fold: (abs(len(fold) - number), fold))
        chosen = set(test_fold)
    if len(chosen) == len(patients):
        raise BadInput("--test names every patient; leave at least one patient for training")
    return [Patient(p.patient, p.name, p.sources, p.patient in chosen) for p in patients]


def state_of(patient: Patient) -> dict:
    """The state of a patient's input, to notice later that it has changed; equal to itself after a round trip in JSON.

    Returns:
        ``test``; ``files`` with path and size; ``stamp``: the modification times of the files and, for each scan, the
        spacing and the structures, which depend on options and on the files of other patients; ``keys``: what
        ``dataset.contents.stat_key`` says of each file; ``named``: what each label means, which may depend on files
        beside the label maps.
    """
    listings = [source.listing() for source in patient.sources]
    files = [
        (path, stat_key(Path(source.folder) / path))
        for source, listing in zip(patient.sources, listings, strict=True)
        for path in listing.files
    ]
    return {
        "test": patient.test,
        "files": [[path, key[0]] for path, key in files],
        "stamp": [
            [key[1] for _, key in files],
            [[list(map(float, listing.spacing)), list(listing.structures)] for listing in listings],
        ],
        "keys": [key for _, key in files],
        "named": [[list(named) for named in listing.named] for listing in listings],
    }


def hashes_of(patient: Patient, state: Mapping) -> list[str]:
    """SHA-256 of each of a patient's ``files`` in what ``state_of`` returned."""
    archive = Path(patient.sources[0].folder)  # all sources have the same
    return [sha256(archive / path) for path, _ in state["files"]]


def is_unchanged(patient: Patient, note: Mapping) -> bool:
    """Whether a patient's input is as it was when the patient was converted.

    A file whose size and modification time are the same may have been replaced (``cp -p``) or restored: where only the
    time of change or the inode differ, its content counts.

    Args:
        patient: as it is now.
        note: what was recorded, with ``state_of`` and ``hashes_of``; earlier versions recorded neither ``keys`` nor
            ``hashes``, so that only sizes and times can be compared, nor ``named``.
    """
    state = state_of(patient)
    before = {"named": state["named"], **note}
    if any(before[name] != state[name] for name in ("test", "files", "stamp", "named")):
        return False
    if "keys" not in note or note["keys"] == state["keys"]:
        return True
    return note["hashes"] == hashes_of(patient, state)


def anonymised_command(words: Sequence[str], patients: Sequence[Patient]) -> list[str]:
    """The words of a command, with ids after ``--test``, and without paths and expressions that may name patients."""
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


def without_files(content: Mapping) -> list[Note]:
    """The ``notes`` of a patient without the names of its ``files``."""
    names = sorted({name for path, _ in content["files"] for name in (path, PurePosixPath(path).name)}, key=len)
    notes = []
    for entry in content["notes"]:
        note = Note.of(entry)
        text, what = note.text, note.what
        for name in reversed(names):
            text, what = text.replace(name, "a file"), what.replace(name, "a file")
        notes.append(replace(note, text=text, what=what))
    return notes
