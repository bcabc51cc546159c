"""Names of patients and ids of cases, from which the patient can be read back; and what anonymity requires."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from nnunet_difflung.dataset.splits import SYNTHETIC_PREFIX, patient_folds
from nnunet_difflung.dataset_conversion.archive.names import patients_of
from nnunet_difflung.dataset_conversion.archive.pairing import natural
from nnunet_difflung.dataset_conversion.sources import Source
from nnunet_difflung.errors import BadInput

LONGEST = 100  # characters of a name
SCANS_APART = 10_000  # the slices of a second scan of a patient are numbered from here

_MAY_NAME = (
    "-i",
    "--mapping",
    "--patient-pattern",
    "--image",
    "--masks",
    "--series",
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
        """``<patient>_s012`` for slice 12, ``<patient>`` for a volume, ``<patient>_im02`` for the second of several."""
        if z is not None:
            return f"{self.patient}_s{scan * SCANS_APART + z:03d}"
        return _volume_id(self.patient, scan, len(self.sources))


def _volume_id(patient: str, scan: int, scans: int) -> str:
    return patient if scans == 1 else f"{patient}_im{scan + 1:02d}"


def name_patients(sources: Sequence[tuple[str, Source]], volumes: bool, anonymous: bool) -> list[Patient]:
    """Patients with safe names, sorted by their names in the archive.

    Args:
        sources: each with the name of its patient in the archive.
        volumes: whether each volume becomes a case, whose id ends with the name of the patient.
        anonymous: whether to use p001, p002, … instead of names.

    Raises:
        BadInput: a name has no letters or digits, or two names become the same safe name.
    """
    scans: dict[str, list[Source]] = {}
    for name, source in sources:
        scans.setdefault(name, []).append(source)
    names = sorted(scans, key=natural)
    safe = {name: f"p{k:03d}" if anonymous else safe_name(name) for k, name in enumerate(names, start=1)}
    if volumes and not anonymous:
        safe = _readable(safe, {name: len(sources) for name, sources in scans.items()})
    seen: dict[str, str] = {}
    for name in names:
        if safe[name] in seen:
            raise BadInput(
                f"patients {seen[safe[name]]!r} and {name!r} would both be called {safe[name]}; expected names that "
                f"differ in letters a-z or digits: rename one of them or give --anonymous"
            )
        seen[safe[name]] = name
    return [Patient(safe[name], name, tuple(scans[name])) for name in names]


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


def _readable(safe: dict[str, str], scans: dict[str, int]) -> dict[str, str]:
    """Safe names, changed if the end of a volume's id could be mistaken for the number of a slice."""
    for _ in range(10):
        ids = {_volume_id(safe[name], k, n): name for name, n in scans.items() for k in range(n)}
        read = patients_of(list(ids)) if ids else {}
        wrong = {name for case, name in ids.items() if read[case] != safe[name]}
        if not wrong:
            return safe
        safe = {
            name: re.sub(r"^(.*[_-])(?=[^_-]*$)", r"\1p", short) if name in wrong else short
            for name, short in safe.items()
        }
    raise BadInput(
        f"patient {min(wrong)!r}: the name looks like that of a slice; rename the patient or give --anonymous"
    )


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
    chosen = {p.patient for p in patients if p.name in names or p.patient in names}
    for name in names:
        if not any(name in (p.name, p.patient) for p in patients):
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
        spacing and the structures, which depend on options and on the files of other patients.
    """
    listings = [source.listing() for source in patient.sources]
    files = [
        (path, (Path(source.folder) / path).stat())
        for source, listing in zip(patient.sources, listings, strict=True)
        for path in listing.files
    ]
    return {
        "test": patient.test,
        "files": [[path, state.st_size] for path, state in files],
        "stamp": [
            [state.st_mtime_ns for _, state in files],
            [[list(map(float, listing.spacing)), list(listing.structures)] for listing in listings],
        ],
    }


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


def without_files(content: Mapping) -> list[str]:
    """The ``notes`` of a patient without the names of its ``files``."""
    names = sorted({name for path, _ in content["files"] for name in (path, PurePosixPath(path).name)}, key=len)
    notes = []
    for note in content["notes"]:
        for name in reversed(names):
            note = note.replace(name, "a file")
        notes.append(note)
    return notes
