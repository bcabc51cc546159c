"""Which DICOM files of an archive belong to one patient, and what the patient is called.

The PatientID decides which files belong together and goes no further: names come from folders.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from nnunet_difflung.dataset_conversion.dicom.headers import Header, library, looks_like_dicom, read_header
from nnunet_difflung.runtime.parallel import bar


def headers_by_patient(root: Path) -> Iterator[tuple[str, list[Header], tuple[str, ...]]]:
    """Patients of an archive in the order of their first file's path.

    Yields:
        the patient's name, its headers in path order, and notes.
    """
    paths = sorted(p for p in root.rglob("*") if p.is_file() and looks_like_dicom(p))
    if paths:
        library("pydicom")
    found = [h for h in (read_header(p, root) for p in bar(paths, desc="DICOM headers", unit="file", delay=5)) if h]
    notes: tuple[str, ...] = ()
    identities = {i for i, h in found if not h.problem}
    with_ct = {_top(h) for _, h in found if h.modality == "CT"}
    if len(identities) == 1 and len(with_ct) > 1:
        notes = ("all files of the archive carry one PatientID: each folder counts as a patient",)
        found = [("", h) for _, h in found]
    here = {
        folder: Counter(i for i, h in found if h.folder == folder and i).most_common(1)
        for folder in {h.folder for i, h in found if not i}
    }
    groups: dict[tuple[str, str], list[Header]] = {}
    for identity, header in found:
        known = identity or (here[header.folder][0][0] if here[header.folder] else "")
        groups.setdefault((known, "" if known else _top(header)), []).append(header)
    names = _names([_home(headers) for headers in groups.values()], root)
    if len(groups) > 1 and names[0] == "p001":
        notes += ("patients share folders: named p001, p002, … in the order of their first file's path",)
    for name, headers in zip(names, groups.values(), strict=True):
        yield name, headers, notes


def _top(header: Header) -> str:
    return PurePosixPath(header.path).parts[0] if header.folder != "." else "."


def _home(headers: Sequence[Header]) -> tuple[str, ...]:
    """The deepest folder that holds all CT files of a patient (all its files where it has no CT)."""
    folders = [PurePosixPath(h.path).parts[:-1] for h in headers if h.modality == "CT"]
    folders = folders or [PurePosixPath(h.path).parts[:-1] for h in headers]
    return _common(folders)


def _common(folders: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    shared = zip(*folders, strict=False)
    length = next((i for i, parts in enumerate(shared) if len(set(parts)) > 1), min(len(f) for f in folders))
    return folders[0][:length]


def _names(homes: Sequence[tuple[str, ...]], root: Path) -> list[str]:
    """One name per patient: as few folders below the patients' common one as tell them apart."""
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
