"""Tells the images of a patient apart by content and position, where UIDs are lost, shared, or made anew for each file.

A copy has the pixels and the position of another file. Files that share a SeriesInstanceUID are one series unless they
lie in different frames of reference or on different grids, or unless series are interleaved that another header tells
apart, such as the kernel or the time point. Files are one series, too, if each has a SeriesInstanceUID of its own, but
together they form a regular volume.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from nnunet_difflung.dataset_conversion.dicom.headers import MARKS, Header
from nnunet_difflung.dataset_conversion.dicom.series import DRAWINGS, read_slice, stack, why_left_out
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.errors import BadInput

SMALLEST = 3  # slices; fewer do not show whether they form a volume of their own
COPY = "identical to another file"
ACROSS = "across the other slices of their series (a scout)"
_ALONE = ("ConvolutionKernel", "SeriesNumber", "SeriesDescription", "ImageType", "SliceThickness")

Key = Callable[[Header], Hashable]


def told_apart(headers: Sequence[Header], root: Path) -> tuple[tuple[Header, ...], tuple[Note, ...]]:
    """The headers of a patient with their real series, without copies of drawings, with copied slices and scouts
    marked as left out; and notes."""
    slices: dict[str, list[Header]] = {}
    for header in headers:
        if header.modality == "CT" and not why_left_out(header):
            slices.setdefault(header.series, []).append(header)
    series, notes = _joined(slices, root)
    drawn_twice = _same_files([header for header in headers if header.modality in DRAWINGS], root)
    if drawn_twice:
        number = len(drawn_twice)
        text = f"left out {number} {'file' if number == 1 else 'files'} with structures {COPY}"
        notes.append(Note(text, Kind.DROPPED, number, f"files with structures {COPY}"))
    changed: dict[str, Header] = {}
    for uid, group in series.items():
        copies = _copies(group, root)
        scouts = _scouts([h for h in group if h.path not in copies], root)
        parts = _parts([h for h in group if h.path not in copies | scouts], root)
        if len(parts) > 1:
            text = f"{len(parts)} series under one SeriesInstanceUID were told apart by positions and other headers"
            notes.append(Note(text, Kind.GUESSED, what="series under one SeriesInstanceUID, told apart"))
        for number, part in enumerate(parts, 1):
            name = f"{uid}/{number}" if len(parts) > 1 else uid
            changed |= {h.path: replace(h, series=name, series_uid=h.series) for h in part if h.series != name}
        for paths, why in ((copies, COPY), (scouts, ACROSS)):
            changed |= {h.path: replace(h, left_out=why) for h in group if h.path in paths}
    kept = (header for header in headers if header.path not in drawn_twice)
    return tuple(changed.get(header.path, header) for header in kept), tuple(notes)


def _joined(slices: dict[str, list[Header]], root: Path) -> tuple[dict[str, list[Header]], list[Note]]:
    """The series; one for all files if each has a SeriesInstanceUID of its own and they form a regular volume."""
    everything = [header for group in slices.values() for header in group]
    alone = len(slices) == len(everything) >= SMALLEST and len({h.folder for h in everything}) == 1
    if not alone or not _is_regular(everything, root):
        return slices, []
    text = "each slice has a SeriesInstanceUID of its own: they are taken as one series, since they form a volume"
    return {everything[0].series: everything}, [Note(text, Kind.GUESSED)]


def _copies(group: Sequence[Header], root: Path) -> set[str]:
    """Paths of files whose pixels and position are those of an earlier file."""
    places: dict[Hashable, list[Header]] = {}
    for header in group:
        places.setdefault((_place(header), _grid(header)), []).append(header)
    copies: set[str] = set()
    for same_place in places.values():
        seen: set[str] = set()
        for header in same_place if len(same_place) > 1 else ():
            content = _content(header, root)
            if content in seen:
                copies.add(header.path)
            seen.add(content)
    return copies


def _same_files(drawings: Sequence[Header], root: Path) -> set[str]:
    """Paths of files with structures that have the content of an earlier file."""
    seen: set[str] = set()
    same: set[str] = set()
    for header in drawings if len(drawings) > 1 else ():
        content = hashlib.sha256((root / header.path).read_bytes()).hexdigest()
        if content in seen:
            same.add(header.path)
        seen.add(content)
    return same


def _content(header: Header, root: Path) -> str:
    """Hash of the pixels in HU, however they are stored; of the file if the pixels cannot be read."""
    try:
        pixels = read_slice(header, root)
    except BadInput:
        return hashlib.sha256((root / header.path).read_bytes()).hexdigest()
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _scouts(group: Sequence[Header], root: Path) -> set[str]:
    """Paths of one or two images that lie across all other slices, which form a regular volume."""
    by_grid = _grouped(group, lambda header: _rounded(header.orientation, 2))
    if not 1 < len(by_grid) <= SMALLEST:
        return set()
    largest = max(by_grid, key=len)
    others = [header for part in by_grid if part is not largest for header in part]
    across = all(abs(_normal(header) @ _normal(largest[0])) < 0.1 for header in others)
    if across and len(others) < SMALLEST <= len(largest) and _is_regular(largest, root):
        return {header.path for header in others}
    return set()


def _parts(group: Sequence[Header], root: Path) -> list[list[Header]]:
    """The series among files with one SeriesInstanceUID; all files together unless they can be told apart."""
    whole = [list(group)]
    keys = _keys(group)
    if not keys or len(group) < 2 * SMALLEST:
        return whole
    regular = _is_regular(group, root)
    choices: list[tuple[Key, bool]] = [(key, apart) for key, apart, alone in keys if alone or not regular]
    if not regular:  # two headers together may tell what one does not, such as kernel and time point
        choices += [(_both(first, second), a or b) for (first, a, _), (second, b, _) in combinations(keys, 2)]
    for key, apart in choices:
        parts = _grouped(group, key)
        several = len(parts) > 1 and min(map(len, parts)) >= SMALLEST and (apart or _interleaved(parts))
        if several and all(_is_regular(part, root) for part in parts):
            return parts
    return whole


def _keys(group: Sequence[Header]) -> list[tuple[Key, bool, bool]]:
    """What differs between the files.

    Returns:
        For each header that differs: the key; whether series never share a volume if it differs, even if one begins
        where the other ends; and whether it counts, although all files together form a regular volume.
    """
    keys: list[tuple[Key, bool, bool]] = [(_grid, True, False)]
    if len({h.frame for h in group} - {""}) > 1:
        keys.insert(0, (lambda h: h.frame, True, True))
    keys += [(_mark(index), False, name in _ALONE) for index, name in enumerate(MARKS)]
    numbers = [{h.number for h in part} for part in _grouped(group, lambda h: h.folder)]
    repeated = len(set().union(*numbers)) < sum(map(len, numbers))
    keys.append((lambda h: h.folder, False, repeated))
    ranks = _ranks(group)
    keys.append((lambda h: ranks.get(h.path, 0), False, True))
    return [(key, apart, alone) for key, apart, alone in keys if len({key(h) for h in group}) > 1]


def _both(first: Key, second: Key) -> Key:
    return lambda header: (first(header), second(header))


def _mark(index: int) -> Key:
    return lambda header: header.marks[index] if header.marks else ""


def _ranks(group: Sequence[Header]) -> dict[str, int]:
    """Path → how many files with this InstanceNumber lie below it, if each number occurs equally often; else empty.

    In two series that were thrown together, each number occurs twice.
    """
    normal = _normal(group[0])
    by_number = _grouped(sorted(group, key=lambda h: _along(h, normal)), lambda h: h.number)
    if len(by_number) < SMALLEST or len({len(same) for same in by_number}) > 1:
        return {}
    return {header.path: rank for same in by_number for rank, header in enumerate(same)}


def _interleaved(parts: Sequence[Sequence[Header]]) -> bool:
    """Whether the slices of a part lie between those of another one, or at their positions."""
    normal = _normal(parts[0][0])
    reach = sorted((min(along), max(along)) for along in ([_along(h, normal) for h in p] for p in parts))
    return any(second[0] <= first[1] for first, second in zip(reach, reach[1:], strict=False))


def _grouped(group: Sequence[Header], key: Key) -> list[list[Header]]:
    groups: dict[Hashable, list[Header]] = {}
    for header in group:
        groups.setdefault(key(header), []).append(header)
    return list(groups.values())


def _is_regular(group: Sequence[Header], root: Path) -> bool:
    try:
        stack(group, root)
    except BadInput:
        return False
    return True


def _grid(header: Header) -> Hashable:
    return header.size, _rounded(header.spacing, 3), _rounded(header.orientation, 2)


def _place(header: Header) -> Hashable:
    return _rounded(header.position or (), 2)


def _rounded(values: Sequence[float], digits: int) -> tuple[float, ...]:
    return tuple(round(value, digits) for value in values)


def _along(header: Header, normal: np.ndarray) -> float:
    """Position of a slice along a direction, mm."""
    return float(np.dot(header.position or (0.0, 0.0, 0.0), normal))


def _normal(header: Header) -> np.ndarray:
    normal = np.cross(header.orientation[:3], header.orientation[3:])
    return normal / (np.linalg.norm(normal) or 1.0)
