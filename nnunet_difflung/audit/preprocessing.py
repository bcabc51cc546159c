"""nnU-Net's preprocessing of a case, except for the resampling, and whether arrays can be its result."""

from __future__ import annotations

import hashlib
import os

import numpy as np

from nnunet_difflung.audit.array_files import Configuration, read_arrays
from nnunet_difflung.audit.array_match import CUBIC, LINEAR, image_differs, label_differs
from nnunet_difflung.dataset.layout import Case
from nnunet_difflung.runtime.files import json_bytes

_PREPROCESSOR = "DefaultPreprocessor"
_RESAMPLING = "resample_data_or_seg_to_shape"
_LOCATIONS = 64  # of each class, compared with the label map


class Unknown(ValueError):
    """The arrays were made in a way that is not known here."""


class Preprocessing:
    """How the arrays of a configuration are made from raw files.

    Attributes:
        configuration: the configuration.
        digest: changes when the plans ask for other arrays.
    """

    def __init__(self, configuration: Configuration):
        """Finds nnU-Net's reader and its normalisation of each channel.

        Raises:
            Unknown: the plans name a preprocessor, reader or normalisation that nnU-Net itself does not have.
        """
        from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

        plans, settings = configuration.plans, configuration.settings
        self.configuration = configuration
        name = settings.get("preprocessor_name", _PREPROCESSOR)
        if name != _PREPROCESSOR:
            raise Unknown(f"they were made by {name}")
        try:
            self._axes = [int(axis) for axis in plans["transpose_forward"]]
            self._target = [float(size) for size in settings["spacing"]]
            self._reader = recursive_find_reader_writer_by_name(plans["image_reader_writer"])
            usual = settings.get("resampling_fn_data") == _RESAMPLING
            self._orders = (CUBIC,) if usual else (CUBIC, LINEAR)
            self._masked = list(settings["use_mask_for_norm"])
            intensities = plans.get("foreground_intensity_properties_per_channel") or {}
            self._normalisers = [
                _normalisation(scheme)(use_mask_for_norm=masked, intensityproperties=intensities.get(str(channel), {}))
                for channel, (scheme, masked) in enumerate(
                    zip(settings["normalization_schemes"], self._masked, strict=True)
                )
            ]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise Unknown(f"the plans cannot be followed ({error})") from error
        by = [self._axes, self._target, settings["normalization_schemes"], self._masked, intensities]
        self.digest = hashlib.sha256(json_bytes(by)).hexdigest()

    def difference(self, case: Case) -> str:
        """What shows that a case's arrays were not made from its raw files; empty if nothing does."""
        try:
            array, labels, properties = read_arrays(self.configuration.folder, case.identifier)
        except Exception:  # any damage, of any of three formats
            return "a preprocessed file that is missing or cannot be read"
        try:
            image, of_image = self._reader().read_images(case.images)
            label, _ = self._reader().read_seg(case.label)
        except Exception:
            return "a raw file that is missing or cannot be read"
        order = [0, *(axis + 1 for axis in self._axes)]
        image, label = image.transpose(order), label.transpose(order)
        spacing = [float(of_image["spacing"][axis]) for axis in self._axes]
        if label.shape[1:] != image.shape[1:] or not self._has_shape_of(image, spacing, array, labels, properties):
            return "another shape or spacing"
        part = (slice(None), *(slice(*bounds) for bounds in properties["bbox_used_for_cropping"]))
        image, label = image[part].astype(np.float32), label[part].astype(np.int16)
        if not _locations_agree(labels, properties.get("class_locations", {})):
            return "other positions of classes"
        coarse = {int(np.argmax(sizes)) for sizes in (spacing, self._target_for(spacing))}
        if label_differs(label[0], np.maximum(labels[0], 0), coarse):
            return "another label map"
        return "another image" if image_differs(self._normalised(image, label[0]), array, coarse, self._orders) else ""

    def _target_for(self, spacing: list[float]) -> list[float]:
        """Spacing after resampling; a 2d configuration keeps the slices."""
        return [spacing[0], *self._target] if len(self._target) < len(spacing) else self._target

    def _has_shape_of(
        self, image: np.ndarray, spacing: list[float], array: np.ndarray, labels: np.ndarray, properties: dict
    ) -> bool:
        """Whether crop, spacing and shape of the arrays follow from the image (c, z, y, x) and its spacing."""
        crop = properties.get("bbox_used_for_cropping")
        if crop is None or tuple(properties.get("shape_before_cropping", ())) != image.shape[1:]:
            return False
        noted = [properties["spacing"][axis] for axis in self._axes]
        size = [high - low for low, high in crop]
        sizes = zip(spacing, self._target_for(spacing), size, strict=True)
        shape = tuple(round(old / new * count) for old, new, count in sizes)
        return (
            len(array) == len(image)
            and np.allclose(noted, spacing, rtol=1e-3)
            and array.shape[1:] == labels.shape[1:] == shape
        )

    def _normalised(self, image: np.ndarray, label: np.ndarray) -> np.ndarray:
        """The cropped image (c, z, y, x), with its label (z, y, x), as nnU-Net's own classes normalise it."""
        outside = np.zeros(image.shape[1:], np.int8)
        if any(self._masked):
            from scipy.ndimage import binary_fill_holes

            outside[~binary_fill_holes((image != 0).any(axis=0)) & (label == 0)] = -1  # what is labelled counts
        for channel, normaliser in enumerate(self._normalisers):
            image[channel] = normaliser.run(image[channel], outside)
        return image


def _normalisation(scheme: str) -> type:
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = os.path.join(nnunetv2.__path__[0], "preprocessing", "normalization")
    normalisation = recursive_find_python_class(folder, scheme, "nnunetv2.preprocessing.normalization")
    if normalisation is None:
        raise ValueError(f"nnU-Net has no normalisation {scheme}")
    return normalisation


def _locations_agree(labels: np.ndarray, locations: dict) -> bool:
    """Whether the positions from which training draws patches show the class that they are listed for."""
    for key, positions in locations.items():
        if len(positions):
            where = np.asarray(positions)[:: max(1, len(positions) // _LOCATIONS)]
            if where.shape[1] != labels.ndim or (where.max(axis=0) >= labels.shape).any():
                return False
            if not np.isin(labels[tuple(where.T)], key).all():
                return False
    return True
