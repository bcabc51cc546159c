"""Which DICOM files of an archive belong to the same patient, and what the patient is called.

The PatientID is only used to group files. It is not kept: patients are named after their folders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from nnunet_difflung.dataset_conversion.dicom.headers import Header, library, looks_like_dicom, read_header
from nnunet_difflung.runtime.parallel import bar


def headers_by_patient(root: Path) -> Iterator[tuple[str, list[Header], tuple[str, ...]]]:
    """The patients of an archive, in the order of the path of their first file.

    Yields:
        the name of the patient, the headers of its files in the order of their paths, and notes.
    """
    paths = sorted(p for p in root.rglob("*") if p.is_file() and looks_like_dicom(p))
    if paths:
        library("pydicom")
    read = (read_header(path, root) for path in bar(paths, desc="DICOM headers", unit="file", delay=5))
    headers = [identity_and_header for identity_and_header in read if identity_and_header]
    notes: tuple[str, ...] = ()
    identities = {identity for identity, header in headers if not header.problem}
    with_ct = {_top(header) for _, header in headers if header.modality == "CT"}
    if len(identities) == 1 and len(with_ct) > 1:
        notes = ("all files of the archive have the same PatientID: each folder is taken as one patient",)
        headers = [("", header) for _, header in headers]
    # files without a PatientID belong to the patient who has most files in their folder
    most_frequent = {
        folder: Counter(i for i, h in headers if h.folder == folder and i).most_common(1)
        for folder in {h.folder for i, h in headers if not i}
    }
    groups: dict[tuple[str, str], list[Header]] = {}
    for file_identity, header in headers:
        identity = file_identity
        if not identity and most_frequent[header.folder]:
            identity = most_frequent[header.folder][0][0]
        groups.setdefault((identity, "" if identity else _top(header)), []).append(header)
    names = _names([_home(group) for group in groups.values()], root)
    if len(groups) > 1 and names[0] == "p001":
        notes += ("patients share folders: they are named p001, p002, … in the order of the path of their first file",)
    for name, group in zip(names, groups.values(), strict=True):
        yield name, group, notes


def _top(header: Header) -> str:
    return PurePosixPath(header.path).parts[0] if header.folder != "." else "."


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
    """A name for each patient: as many folder levels below their common folder as are needed to tell them apart."""
    if len(set(homes)) < len(homes):
        return [f"p{i:03d}" for i in range(1, len(homes) + 1)]
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
