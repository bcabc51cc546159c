"""Notes on what a conversion loses or decides on the way: overlaps, structures and slices left out, lost lesions."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
from scipy import ndimage

from nnunet_difflung.dataset_conversion.case import IGNORE, Case
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.dataset_conversion.pipeline.mapping import LabelMapping


def overlaps(label: np.ndarray, mask: np.ndarray, value: int, mapping: LabelMapping) -> list[Note]:
    """Notes on the voxels of a label map that a structure is about to overwrite.

    Args:
        label: (z, y, x) label values so far.
        mask: (z, y, x) bool, the structure.
        value: label value of the structure.
        mapping: for the names of the labels.
    """
    names = {number: name for name, number in mapping.labels.items()}
    counts = np.bincount(label[mask], minlength=1)
    notes = []
    for below in map(int, np.flatnonzero(counts)):
        if below in (0, value, mapping.ignore):
            continue
        what = f"voxels drawn as {names[below]} and as {names[value]}, which become {names[value]}"
        notes.append(Note(f"{what}: {counts[below]}", Kind.MERGED, int(counts[below]), what))
    return notes


def unmapped(structures: Iterable[str], mapping: LabelMapping) -> list[Note]:
    """Notes on the structures of a scan that become no label."""
    notes = []
    for name in sorted(structures):
        if mapping.rule_of(name) is None:
            what = f"structure {name}, left out as ignore_structures says"
            notes.append(Note(what, Kind.DROPPED, what=what))
    return notes


def absent(structures: Collection[str], mapping: LabelMapping) -> list[Note]:
    """Notes on the labels for which a patient has no structure, and which are therefore taken as absent."""
    notes = []
    for rule in mapping.rules:
        if rule.structures and rule.label != IGNORE and not any(rule.matches(name) for name in structures):
            what = f"no structure for {rule.label}, taken as absent"
            notes.append(Note(what, Kind.GUESSED, what=what))
    return notes


def slices_left_out(count: int, all_slices: bool) -> list[Note]:
    """A note on the slices of a scan that become no case."""
    if not count:
        return []
    what = "slices without a label" if all_slices else "slices without drawn structures"
    return [Note(f"{what} left out: {count}", Kind.DROPPED, count, f"{what} left out")]


def close_slices(count: int) -> list[Note]:
    """A note on slices that are left out because they lie close to others of the same scan."""
    what = "slices close to others of the same scan left out"
    return [Note(f"{what}: {count}", Kind.DROPPED, count, what)] if count else []


def slices_of_little_lung(count: int) -> list[Note]:
    """A note on slices that are left out because they show no lesion and little lung."""
    what = "slices without a lesion and with little lung left out"
    return [Note(f"{what}: {count}", Kind.DROPPED, count, what)] if count else []


def lost_lesions(before: Case, after: Case, lesions: Collection[int], names: dict[int, str]) -> list[Note]:
    """Notes on the lesions that cropping or resampling loses.

    A lesion (connected component in a slice) is lost if no pixel of its label remains where it was.

    Args:
        before: the case as labelled.
        after: the case cropped and resampled in plane, with as many slices or fewer, as its origin says.
        lesions: label values.
        names: label value → name.
    """
    if before.label.shape == after.label.shape and np.array_equal(before.label, after.label):
        return []
    axes = np.array(before.direction).reshape(3, 3)
    corner = np.array(after.origin) - np.array(before.origin)
    first = axes.T @ corner  # mm from the centre of the first voxel before to that after, along x, y, z
    notes = []
    for value in sorted(lesions):
        count = 0
        for z in map(int, np.flatnonzero((before.label == value).any((1, 2)))):
            plane = _slice_of(after, z, first, before)
            count += _lost_in_slice(before.label[z] == value, plane, first, before, after, value)
        if count:
            what = f"lesions of {names[value]} lost by cropping or resampling"
            notes.append(Note(f"{what}: {count}", Kind.DROPPED, count, what))
    return notes


def _slice_of(after: Case, z: int, first: np.ndarray, before: Case) -> np.ndarray | None:
    """The label map of slice ``z`` after cropping; None if it was cut off."""
    k = z - round(float(first[2]) / before.spacing[2])
    return after.label[k] if 0 <= k < len(after.label) else None


def _lost_in_slice(
    mask: np.ndarray, plane: np.ndarray | None, first: np.ndarray, before: Case, after: Case, value: int
) -> int:
    """Number of components of a (y, x) mask in whose place ``plane`` has no pixel of ``value``."""
    components, number = ndimage.label(mask, np.ones((3, 3)))
    if plane is None:
        return number
    lost = 0
    for box in ndimage.find_objects(components):
        window = tuple(
            _pixels(side, first[axis], before.spacing[axis], after.spacing[axis], plane.shape[1 - axis])
            for side, axis in zip(box, (1, 0), strict=True)
        )
        lost += int(not (plane[window] == value).any())
    return lost


def _pixels(side: slice, first: float, old: float, new: float, number: int) -> slice:
    """The pixels of the new grid that the old pixels ``side`` touch, and the next, which may keep a small lesion."""
    low, high = ((edge - 0.5) * old - first for edge in (side.start, side.stop))
    return slice(max(0, int(np.floor(low / new))), max(0, min(number, int(np.ceil(high / new)) + 1)))


def ignored_slices(count: int) -> list[Note]:
    """A note on the slices that were not annotated and get nnU-Net's ignore label."""
    what = f"slices that were not annotated, labelled {IGNORE}"
    return [Note(f"{what}: {count}", Kind.REINTERPRETED, count, what)] if count else []
