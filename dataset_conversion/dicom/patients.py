"""Which DICOM files of an archive belong to the same patient, and what the patient is called.

The PatientID groups the files. It says nothing where it is empty, a word for anonymous, or the same in all folders;
then each folder is taken as a patient, and the names of the folders have to tell whether that is right
(``archive.grouping``). Where an export gave a patient several PatientIDs, the same name and date of birth join them.
None of this is kept: patients are named after their folders.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath

from nnunet_difflung.dataset_conversion.dicom.headers import (
    Header,
    Person,
    is_packed_dicom,
    library,
    looks_like_dicom,
    read_header,
)
from nnunet_difflung.dataset_conversion.dicom.identity import told_apart
from nnunet_difflung.dataset_conversion.dicom.series import why_left_out
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.parallel import bar
from nnunet_difflung.runtime.walk import walk

_NOBODY = re.compile(
    r"(anon(ym(ous|i[sz]ed)?)?|de-?id(entified)?|unknown|none|null|n/?a|no-?(name|id)|removed|redacted|patient|subject|"
    r"test|default|id|name|nobody|(?P<same>[0x*?.-])(?P=same)*)?",
    re.IGNORECASE,
)
_JOINED = "files with different PatientIDs, but the same name and date of birth, are taken as one patient"
_BY_FOLDER = "files without a PatientID are taken to belong to the patient of their folder"
_IN_ONE_FOLDER = (
    "all files of the archive lie in one folder and have the same PatientID, or none: they are taken as one patient; "
    "if the folders in it are patients, give that folder with -i"
)
_SPELLED = "PatientIDs that differ only in upper and lower case, or in how accents are stored, are taken as one patient"


@dataclass(frozen=True)
class DicomFiles:
    """The files of what is taken as a patient.

    Attributes:
        name: of the patient's folder, or p001, … of patients who share one.
        headers: of the files, in the order of their paths.
        notes: for the report.
        identified: whether headers tell the patient, and not only the folder.
    """

    name: str
    headers: tuple[Header, ...]
    notes: tuple[Note, ...]
    identified: bool


def files_by_patient(root: Path) -> Iterator[DicomFiles]:
    """The patients of an archive, in the order of the path of their first file."""
    paths = _paths(root)
    if paths:
        library("pydicom")
    read = (read_header(path, root) for path in bar(paths, desc="DICOM headers", unit="file", delay=5))
    files = [person_and_header for person_and_header in read if person_and_header]
    identities, notes, notes_of = _identities(files)
    groups: dict[tuple[str, str], list[Header]] = {}
    for identity, (_, header) in zip(identities, files, strict=True):
        groups.setdefault((identity, "" if identity else _top(header)), []).append(header)
    homes = [_home(group) for group in groups.values()]
    names = _names(homes, root)
    if len(set(homes)) < len(homes):
        text = "patients share folders: these are named p001, p002, … in the order of the path of their first file"
        notes += (Note(text),)
    for name, ((identity, _), group) in zip(names, groups.items(), strict=True):
        headers, told = told_apart(group, root)
        yield DicomFiles(name, headers, (*notes, *notes_of.get(identity, ()), *told), bool(identity))


def _paths(root: Path) -> list[Path]:
    """The DICOM files of an archive.

    Raises:
        BadInput: DICOM files are packed one by one, or a file or a folder cannot be opened.
    """
    files = [root / path for path in walk(root).files]
    packed = [path for path in files if is_packed_dicom(path)]
    if packed:
        raise BadInput(
            f"{packed[0]}: DICOM compressed with gzip ({len(packed)} file{'s' * (len(packed) > 1)}); unpack such files "
            f"first (gunzip), or move them out of the archive"
        )
    return sorted(path for path in files if looks_like_dicom(path))


def _identities(
    files: Sequence[tuple[Person, Header]],
) -> tuple[list[str], tuple[Note, ...], dict[str, list[Note]]]:
    """Who the patients of the files are.

    Returns:
        For each file what tells its patient, ``""`` if only the folder does; notes on all patients; and on each.
    """
    same = _same_person(files)
    identities = [same.get(_id(person), _id(person)) for person, _ in files]
    readable = {identity for identity, (_, header) in zip(identities, files, strict=True) if not header.problem}
    with_ct = {_top(header) for _, header in files if header.modality == "CT"}
    if len(readable) == 1 and len(with_ct) > 1:
        what = "have the same PatientID" if readable != {""} else "lack a PatientID"
        text = f"all files of the archive {what}: each folder is taken as one patient"
        return [""] * len(files), (Note(text, Kind.GUESSED),), {}
    told = [Note(_JOINED, Kind.GUESSED)] if same else []
    slices = [header for _, header in files if header.modality == "CT" and not why_left_out(header)]
    if len(readable) == 1 and _may_be_several(slices):
        told.append(Note(_IN_ONE_FOLDER, Kind.GUESSED))
    notes_of: dict[str, list[Note]] = defaultdict(list)
    spellings: dict[str, set[str]] = defaultdict(set)
    for person, _ in files:
        spellings[_id(person)].add(person.patient_id)
    for identity, ids in spellings.items():
        if identity and len(ids) > 1:
            notes_of[same.get(identity, identity)].append(Note(_SPELLED, Kind.MERGED))
    completed = _completed(identities, [PurePosixPath(header.path).parts[:-1] for _, header in files])
    readable_files = zip(identities, completed, (not header.problem for _, header in files), strict=True)
    guessed = Counter(new for old, new, is_readable in readable_files if new and not old and is_readable)
    for identity, number in guessed.items():
        notes_of[identity].append(Note(_BY_FOLDER, Kind.GUESSED, number))
    return completed, tuple(told), notes_of


def _completed(identities: Sequence[str], folders: Sequence[tuple[str, ...]]) -> list[str]:
    """Gives files without a PatientID to a patient.

    It is the patient who has most files in their folder; if none has, the only patient in the closest folder above,
    below the archive's own, that holds files of a patient.
    """
    below: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    inside: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for identity, folder in zip(identities, folders, strict=True):
        if identity:
            inside[folder][identity] += 1
            for depth in range(1, len(folder) + 1):
                below[folder[:depth]][identity] += 1
    completed = list(identities)
    for k, (identity, folder) in enumerate(zip(identities, folders, strict=True)):
        if identity:
            continue
        if folder in inside:
            completed[k] = inside[folder].most_common(1)[0][0]
            continue
        above = next((below[folder[:d]] for d in range(len(folder), 0, -1) if folder[:d] in below), None)
        if above is not None and len(above) == 1:
            completed[k] = next(iter(above))
    return completed


def _id(person: Person) -> str:
    """The PatientID, in one spelling; ``""`` if it is missing or stands for nobody."""
    patient_id = unicodedata.normalize("NFC", person.patient_id).casefold()
    return "" if _NOBODY.fullmatch(patient_id) else patient_id


def _same_person(files: Sequence[tuple[Person, Header]]) -> Mapping[str, str]:
    """PatientID → the one to use instead, for several PatientIDs of a person with the same name and date of birth.

    If all files have the same name and date of birth, these were set by an anonymisation and say nothing.
    """
    ids_of: dict[tuple[str, str], list[str]] = {}
    for person, _ in files:
        name = person.name.casefold().rstrip("^")
        nobody = all(map(_NOBODY.fullmatch, re.split(r"[\s^=]+", name)))
        if _id(person) and person.birth_date and not nobody:
            ids = ids_of.setdefault((name, person.birth_date), [])
            ids += [_id(person)] * (_id(person) not in ids)
    if len(ids_of) < 2:
        return {}
    instead: dict[str, str] = {}

    def chosen(patient_id: str) -> str:
        while patient_id in instead:
            patient_id = instead[patient_id]
        return patient_id

    for first, *others in ids_of.values():
        for other in others:
            if chosen(other) != chosen(first):
                instead[chosen(other)] = chosen(first)
    return {patient_id: chosen(patient_id) for patient_id in instead}


def _top(header: Header) -> str:
    return PurePosixPath(header.path).parts[0] if header.folder != "." else "."


def _may_be_several(slices: Sequence[Header]) -> bool:
    """Whether the folders in the deepest folder that holds all slices may be patients: their frames differ."""
    folders = [PurePosixPath(header.path).parts[:-1] for header in slices]
    depth = len(_common(folders)) if folders else 0
    frames: dict[str, set[str]] = defaultdict(set)
    for folder, header in zip(folders, slices, strict=True):
        if len(folder) > depth:
            frames[folder[depth]].add(header.frame)
    return any(one.isdisjoint(other - {""}) for one, other in combinations(frames.values(), 2))


def _home(headers: Sequence[Header]) -> tuple[str, ...]:
    """The deepest folder that holds all CT files of a patient (or all files if the patient has no CT)."""
    folders = [PurePosixPath(h.path).parts[:-1] for h in headers if h.modality == "CT"]
    folders = folders or [PurePosixPath(h.path).parts[:-1] for h in headers]
    return _common(folders)


def _common(folders: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    shared = zip(*folders, strict=False)
    length = next((i for i, parts in enumerate(shared) if len(set(parts)) > 1), min(len(f) for f in folders))
    return folders[0][:length]


def _names(homes: Sequence[tuple[str, ...]], root: Path) -> list[str]:
    """A name for each patient: as many folder levels below their common folder as are needed to tell them apart.

    Patients who share a folder get numbers. The others keep the names of theirs: without a PatientID these alone tell
    whether several of them are one.
    """
    numbers = Counter(homes)
    if len(numbers) < len(homes):
        own = [home for home in homes if numbers[home] == 1]
        named = dict(zip(own, _names(own, root), strict=True)) if own else {}
        taken = set(named.values())
        return [named.get(home) or _number(i, taken) for i, home in enumerate(homes, 1)]
    start = len(_common(homes)) if len(homes) > 1 else 0
    depth = next(
        (
            d
            for d in range(1, 1 + max((len(h) for h in homes), default=0))
            if len({h[start : start + d] for h in homes}) == len(homes)
        ),
        0,
    )
    return ["/".join(h[start : start + depth]) or root.resolve().name for h in homes]


def _number(i: int, taken: Collection[str]) -> str:
    name = f"p{i:03d}"
    return name if name not in taken else f"{name}_shared"
