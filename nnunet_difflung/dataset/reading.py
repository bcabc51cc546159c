"""Reads cases, checks them for faults that nnU-Net would find only hours later, and derives the class ``body``."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from acvl_utils.morphology.morphology_helper import remove_all_but_largest_component
from skimage.filters import threshold_otsu

from nnunet_difflung.dataset.headers import COSINES, MM, has_four_axes, impossible_voxels, other_grid
from nnunet_difflung.dataset.holes import filled
from nnunet_difflung.dataset.layout import Case
from nnunet_difflung.dataset.orientation import directions
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.intensities import Judgement, judge
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.meaning.voxels import LARGEST, SMALLEST
from nnunet_difflung.runtime.wording import numbers

CT_BODY_THRESHOLD = -500.0  # HU, between lung and soft tissue


@dataclass(frozen=True)
class CaseFacts:
    """Facts of a checked case.

    Attributes:
        identifier: case id.
        shape: (z, y, x).
        channels: number of channels.
        spacing: (z, y, x) in mm as nnU-Net's reader gives it.
        dtype: data type of the cached image.
        counts: label name → number of voxels in each slice (z).
        stamp: name, size and modification time of the source files, by which earlier versions knew a cached copy.
        content: SHA-256 of image and labels; identifies a generator's training data, independent of the files.
        files: file, named as in the manifest → SHA-256; shows whether a cached copy is up to date. Empty if the files
            were not hashed.
        judged: what the values of each channel mean; None for channels that are not called CT.
        directions: where z, y and x lead (``orientation.directions``); empty if the file does not tell.
        blank: z of the slices of a volume that show labelled lung, but hold a single value in every channel.
    """

    identifier: str
    shape: tuple[int, int, int]
    channels: int
    spacing: tuple[float, float, float]
    dtype: str
    counts: dict[str, list[int]]
    stamp: list
    content: str
    files: dict[str, str] = field(default_factory=dict)
    judged: tuple[Judgement | None, ...] = ()
    directions: str = ""
    blank: tuple[int, ...] = ()

    def voxels(self, name: str) -> int:
        """Number of voxels of a label in the whole case."""
        return sum(self.counts[name])

    def lung_slices(self, roles: LabelRoles) -> int:
        """Number of slices that show normal lung or a pathology."""
        return int(np.count_nonzero(np.sum([self.counts[name] for name in roles.lung], axis=0)))


def with_class_counts(raw: RawDataset, facts: Mapping[str, CaseFacts]) -> RawDataset:
    """The dataset with the class counts and the files' hashes of its checked cases.

    So labels need not be read again for new folds, and the injection sees whether a file has changed since.
    """
    voxels = {i: [facts[i].voxels(name) for name in raw.roles.values] for i in raw.cases}
    hashed = all(facts[i].files for i in raw.cases)
    return replace(raw, voxels=voxels, contents={i: facts[i].files for i in raw.cases} if hashed else None)


def body_mask(image: np.ndarray, label: np.ndarray, threshold: float) -> np.ndarray:
    """The derived class ``body``: thorax cage and mediastinum around the labelled structures.

    Args:
        image: (z, y, x), first channel.
        label: (z, y, x); labelled voxels are never body.
        threshold: −500 HU for CT.

    Returns:
        (z, y, x) bool: in each slice the largest connected component above the threshold, with its holes filled,
        without the labelled voxels.
    """
    body = np.zeros(label.shape, bool)
    for z, plane in enumerate(image > threshold):
        if plane.any():
            body[z] = filled(remove_all_but_largest_component(plane))
    return body & (label == 0)


def condition_map(
    image: np.ndarray, label: np.ndarray, roles: LabelRoles, judged: Sequence[Judgement | None]
) -> np.ndarray:
    """The label values and, where nothing is labelled, the derived body class.

    Args:
        image: (c, z, y, x) intensities.
        label: (z, y, x) label values.
        roles: of the labels.
        judged: what the values of each channel mean (``judged_channels``).

    Returns:
        (z, y, x) uint8.
    """
    threshold = CT_BODY_THRESHOLD if body_is_above_hu(judged) else _otsu(image[0])
    condition = label.astype(np.uint8)
    condition[body_mask(image[0], label, threshold)] = roles.body_value
    return condition


def read_case(raw: RawDataset, case: Case) -> tuple[np.ndarray, np.ndarray, CaseFacts]:
    """Reads a case and checks it for faults that nnU-Net would find only hours later.

    Returns:
        image (c, z, y, x), condition map (z, y, x) uint8 (label values, and ``roles.body_value``), facts.

    Raises:
        BadInput: geometry differs, NaN or undefined labels occur, or the number of channels is wrong.
    """
    image, of_image = raw.read_image(case.identifier)
    label, of_label = raw.read_label(case.identifier)
    _check_geometry(case, image, label, of_image, of_label)
    _check_channels(case)
    if len(image) != len(raw.channels):
        raise BadInput(
            f"{case.images[0]}: {len(image)} channels found, {len(raw.channels)} expected according to "
            f"channel_names in dataset.json; {_channel_remedy(case, len(image), len(raw.channels))}"
        )
    if not np.isfinite(image).all():
        count = int((~np.isfinite(image)).sum())
        raise BadInput(f"{case.images[0]} has {count} NaN or infinite voxels; replace them, for example by −1000 HU")
    _check_labels(case, label, raw.roles)
    judged = judged_channels(raw.channels, raw.roles, image, label)
    condition = condition_map(image, label, raw.roles, judged)
    image = _exact_integers(image)
    z, y, x = of_image["spacing"]
    counts = {name: np.count_nonzero(label == value, axis=(1, 2)).tolist() for name, value in raw.roles.values.items()}
    facts = CaseFacts(
        case.identifier,
        label.shape,
        len(image),
        (float(z), float(y), float(x)),
        str(image.dtype),
        counts,
        source_stamp(case),
        _hash_of_voxels(image, label),
        judged=judged,
        directions=directions(of_image),
        blank=_blank_slices(image, [counts[name] for name in raw.roles.lung]),
    )
    return image, condition, facts


def _blank_slices(image: np.ndarray, counts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """z of the slices of a volume that hold a single value in every channel, as if something had filled them up.

    Args:
        image: (c, z, y, x).
        counts: number of voxels in each slice, of normal lung and each pathology; other slices may hold a single value.
    """
    shown = np.flatnonzero(np.sum(counts, axis=0)).tolist() if image.shape[1] > 1 else []
    return tuple(z for z in shown if _is_blank(image[:, z]))


def _is_blank(planes: np.ndarray) -> bool:
    middle = planes[:, planes.shape[1] // 2]  # nearly all slices are known by a row
    return bool((middle == middle[:, :1]).all() and (planes == planes[:, :1, :1]).all())


def _hash_of_voxels(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _channel_remedy(case: Case, channels: int, expected: int) -> str:
    if many := [file for file in case.images if has_four_axes(file)]:
        whose = "it is a 4D file" if len(case.images) == 1 else f"{many[0]} is a 4D file"
        volumes = f" with {channels} volumes" if len(case.images) == 1 else ""
        return f"{whose}{volumes}: save the volume of each channel as a file of its own, which ends in _XXXX"
    if len(case.images) == 1 and channels > 1:  # a picture in colours
        return f"name all {channels} channels of the picture in channel_names, or save the pictures in grey"
    if channels < expected:
        return "add the missing _XXXX files or correct channel_names"
    return "correct channel_names, or take the other _XXXX files away"


def judged_channels(
    channels: Sequence[str], roles: LabelRoles, image: np.ndarray, label: np.ndarray
) -> tuple[Judgement | None, ...]:
    """What the values of each channel of a case mean; None for channels that are not called CT.

    Args:
        channels: their names.
        roles: of the labels.
        image: (c, z, y, x).
        label: (z, y, x); a condition map will do.
    """
    if not any(map(is_ct, channels)):
        return (None,) * len(channels)
    normal = [roles.values[name] for name in roles.lung if name not in roles.pathologies]
    lung = np.isin(label, normal)
    return tuple(judge(image[c], lung) if is_ct(name) else None for c, name in enumerate(channels))


def body_is_above_hu(judged: Sequence[Judgement | None]) -> bool:
    """Whether the body is what is above ``CT_BODY_THRESHOLD`` in the first channel, and not above Otsu's threshold."""
    return judged[0] is not None and not judged[0].not_hu


def is_ct(channel: str) -> bool:
    """Whether nnU-Net normalises a channel of this name as CT."""
    return channel.casefold() == "ct"


def _check_geometry(case: Case, image, label, of_image: dict, of_label: dict) -> None:
    def refuse(what: str, actual, expected) -> None:
        raise BadInput(
            f"{case.label}: {what} {actual} differs from the image's {expected} ({case.images[0]}); "
            f"resample the label onto the image's grid"
        )

    _check_spacing(case, image.shape[1:], of_image)
    if label.shape != image.shape[1:]:
        refuse("shape", label.shape, image.shape[1:])
    if not _close(of_image["spacing"], of_label["spacing"], rtol=1e-3):
        refuse("spacing", numbers(of_label["spacing"]), numbers(of_image["spacing"]))
    for family in ("sitk_stuff", "nibabel_stuff"):
        for key, expected in of_image.get(family, {}).items():
            found = of_label[family][key]
            if not isinstance(expected, str) and not _same_grid(key, expected, found):
                refuse(key, np.round(found, 3).tolist(), np.round(expected, 3).tolist())


def _same_grid(key: str, expected: Any, found: Any) -> bool:
    """Whether an entry of two headers is the same, as far as x, y and z are concerned."""
    if type(expected) is tuple and expected == found:
        return True
    first, second = (np.asarray(values, float) for values in (expected, found))
    if key == "direction":  # an image whose channels are its fourth axis has four of each
        first, second = (_square(values)[:3, :3] for values in (first, second))
    elif "affine" in key:
        if not np.allclose(first[:3, 3], second[:3, 3], rtol=0, atol=MM):
            return False
        steps = np.maximum(np.linalg.norm(first[:3, :3], axis=0), np.finfo(float).tiny)
        first, second = first[:3, :3] / steps, second[:3, :3] / steps
    else:
        first, second = first[:3], second[:3]
    return first.shape == second.shape and np.allclose(
        first, second, rtol=1e-5, atol=MM if key in ("origin", "spacing") else COSINES
    )


def _square(values: np.ndarray) -> np.ndarray:
    side = math.isqrt(values.size)
    return values.reshape(side, side)


def _check_spacing(case: Case, shape: Sequence[int], header: dict) -> None:
    """Refuses a header with values that are no numbers, or with voxels of a size that no CT has.

    Lesions are moved from case to case by their size in mm.
    """
    spacing, listed = header["spacing"], " × ".join(f"{float(mm):g}" for mm in header["spacing"])
    of_axes = [float(mm) for mm, n in zip(spacing, shape, strict=True) if n > 1]
    if not (all(SMALLEST <= mm <= LARGEST for mm in of_axes) and np.isfinite(spacing).all()):
        raise BadInput(
            f"{case.images[0]}: voxels of {listed} mm (z, y, x); expected {SMALLEST:g} to {LARGEST:g} mm along each "
            f"axis: correct the voxel size or its unit in the headers of image and label"
        )
    for name in ("sitk_stuff", "nibabel_stuff"):
        for key, values in header.get(name, {}).items():
            if not isinstance(values, str) and not np.isfinite(np.asarray(values, float)).all():
                raise BadInput(
                    f"{case.images[0]}: {key} {np.round(values, 3).tolist()} is not finite; correct it in the headers "
                    f"of image and label"
                )
    if found := impossible_voxels(case.images[0], tuple(map(float, spacing[::-1]))):
        raise BadInput(
            f"{case.images[0]}: the header's voxel size along {found}; correct it in the headers of image and label"
        )


def _check_channels(case: Case) -> None:
    """Refuses channels that lie elsewhere than the first one, of which nnU-Net's readers only warn."""
    for file in case.images[1:]:
        if found := other_grid(case.images[0], file):
            raise BadInput(
                f"{file} does not lie where the first channel, {case.images[0]}, lies ({found}); resample it onto the "
                f"grid of the first channel, or correct its header"
            )


def _close(first: Any, second: Any, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
    """``np.allclose``, in a hundredth of the time where both are the same numbers, as they usually are."""
    listed = type(first) in (tuple, list) and first == second
    if listed and all(isinstance(number, (int, float)) and math.isfinite(number) for number in first):
        return True
    return np.allclose(first, second, rtol=rtol, atol=atol)


def _check_labels(case: Case, label: np.ndarray, roles: LabelRoles) -> None:
    defined = {0, *roles.values.values()} | (set() if roles.ignore is None else {roles.ignore})
    unknown = sorted(set(_values(label)) - defined)
    if unknown:
        raise BadInput(
            f"{case.label} holds the label {unknown[0]}, but dataset.json defines only {sorted(defined)}; "
            f"add the label to dataset.json or correct the file"
        )


def _values(label: np.ndarray) -> list[int]:
    """The different values of (z, y, x) int16 label values."""
    if label.size and label.min() < 0:
        return [int(value) for value in np.unique(label)]
    return np.flatnonzero(np.bincount(label.ravel())).tolist()


def _otsu(channel: np.ndarray) -> float:
    return float(threshold_otsu(channel)) if channel.min() < channel.max() else float(channel.max())


def _exact_integers(image: np.ndarray) -> np.ndarray:
    """The values as uint8 or int16 if that is exact, else as float32."""
    low, high = image.min(), image.max()
    for dtype in (np.uint8, np.int16):
        limits = np.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            whole = image.astype(dtype)
            return whole if np.array_equal(whole, image) else image.astype(np.float32)
    return image.astype(np.float32)


def source_stamp(case: Case) -> list:
    """Name, size and modification time of each source file, as JSON returns it."""
    files = [(os.path.basename(file), os.stat(file)) for file in (*case.images, case.label)]
    return [[name, status.st_size, status.st_mtime_ns] for name, status in files]
