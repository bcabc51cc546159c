"""Checks the arrays of a mask to paint, and gives them the shapes that the package works with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.runtime.wording import numbers

_THICK = 999.0  # mm, which nnU-Net's readers give the z axis of pictures
_NAMED = 3  # labels that a message names


@dataclass(frozen=True)
class Volume:
    """Checked arrays.

    Attributes:
        image: (c, z, y, x) in its own data type.
        label: (z, y, x) int16 label values.
        new_label: the same with the mask.
        spacing: (z, y, x) in mm.
    """

    image: np.ndarray
    label: np.ndarray
    new_label: np.ndarray
    spacing: tuple[float, float, float]

    def with_values(self, values: np.ndarray, region: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """A copy of the image with other values in a region, in the image's data type and a given shape.

        Args:
            values: (c, z, y, x) float32.
            region: (z, y, x) bool.
            shape: of the result.
        """
        result, new = self.image.copy(), values[:, region]
        if result.dtype.kind in "iu":
            limits = np.iinfo(result.dtype)
            new = np.clip(np.rint(new), limits.min, limits.max)
        result[:, region] = new.astype(result.dtype)
        return result.reshape(shape)


def as_volume(
    image: np.ndarray,
    labels: np.ndarray,
    new_labels: np.ndarray,
    spacing: Sequence[float],
    channels: Sequence[str],
    roles: LabelRoles,
) -> Volume:
    """Checks the arrays and makes a slice a volume of one slice.

    Args:
        image: (y, x) or (z, y, x), or (c, y, x) or (c, z, y, x); ``labels`` says which.
        labels: (y, x) or (z, y, x) label values.
        new_labels: of the same shape.
        spacing: of the axes of ``labels`` in mm.
        channels: names of the channels.
        roles: of the labels.

    Raises:
        BadInput: says what is wrong.
    """
    image, labels, new_labels = np.asarray(image), np.asarray(labels), np.asarray(new_labels)
    if labels.ndim not in (2, 3) or not labels.size:
        raise BadInput(f"labels has the shape {labels.shape}; expected (y, x) or (z, y, x)")
    if new_labels.shape != labels.shape:
        raise BadInput(f"new_labels has the shape {new_labels.shape}, labels {labels.shape}; expected the same")
    with_channels = (len(channels), *labels.shape)
    if image.shape != with_channels and not (len(channels) == 1 and image.shape == labels.shape):
        alone = f"{labels.shape} or " if len(channels) == 1 else ""
        raise BadInput(
            f"image has the shape {image.shape}, labels {labels.shape}; expected {alone}{with_channels} with the "
            f"channels {', '.join(channels)} first"
        )
    if image.dtype.kind not in "iuf":
        raise BadInput(f"image has the data type {image.dtype}; expected integers or floating-point numbers")
    if not np.isfinite(image).all():
        raise BadInput(f"image has {int((~np.isfinite(image)).sum())} NaN or infinite voxels; replace them")
    depth = (1,) * (3 - labels.ndim)
    label, new_label = (
        _whole(array, name, roles).reshape(*depth, *labels.shape)
        for array, name in ((labels, "labels"), (new_labels, "new_labels"))
    )
    _check_change(label, new_label, roles)
    return Volume(image.reshape(len(channels), *depth, *labels.shape), label, new_label, _spacing(spacing, labels.ndim))


def _whole(array: np.ndarray, name: str, roles: LabelRoles) -> np.ndarray:
    """Label values as int16, all of them known."""
    if array.dtype.kind not in "iuf" or not np.isfinite(array).all() or (array != np.rint(array)).any():
        raise BadInput(f"{name} ({array.dtype}) holds what is no label value; expected whole numbers")
    defined = {0, *roles.values.values()} | (set() if roles.ignore is None else {roles.ignore})
    unknown = sorted(set(map(int, np.unique(array))) - defined)
    if unknown:
        listed = ", ".join(f"{value} {label}" for label, value in roles.values.items())
        raise BadInput(f"{name} holds the value {unknown[0]}; the labels are 0 background, {listed}")
    return array.astype(np.int16)


def _check_change(label: np.ndarray, new_label: np.ndarray, roles: LabelRoles) -> None:
    """Refuses a change that is not a pathology in the place of normal lung."""
    changed = new_label != label
    if not changed.any():
        raise BadInput(
            "new_labels is the same as labels, so there is nothing to paint; give the voxels of the new lesion the "
            "value of its class"
        )
    names = {value: name for name, value in roles.values.items()} | {0: "background"}
    names |= {} if roles.ignore is None else {roles.ignore: "ignore"}
    pathologies = [roles.values[name] for name in roles.pathologies]
    wrong = changed & ~(roles.is_normal(label) & np.isin(new_label, pathologies))
    if wrong.any():
        pairs, counts = np.unique(np.stack([label[wrong], new_label[wrong]]), axis=1, return_counts=True)
        listed = [
            f"{count} voxels from {names[int(before)]} to {names[int(after)]}"
            for (before, after), count in zip(pairs.T, counts, strict=True)
        ]
        raise BadInput(
            f"new_labels changes {', '.join(listed[:_NAMED])}; only normal lung ({', '.join(roles.normal)}) can become "
            f"a pathology ({', '.join(roles.pathologies)}): give all other voxels the value that labels has there"
        )


def _spacing(spacing: Sequence[float], axes: int) -> tuple[float, float, float]:
    """(z, y, x) in mm."""
    try:
        values = [float(length) for length in np.atleast_1d(np.asarray(spacing, float))]
    except (TypeError, ValueError):
        values = []
    if len(values) != axes or not all(0 < length < np.inf for length in values):
        order = "(y, x)" if axes == 2 else "(z, y, x)"
        given = numbers(values) if values else spacing
        raise BadInput(f"spacing is {given}; expected {axes} positive numbers in mm, {order} as the axes of labels")
    z, y, x = [_THICK] * (3 - axes) + values
    return z, y, x
