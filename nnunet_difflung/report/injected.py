"""Synthetic cases as they are in a dataset, each beside the real case that it was painted into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnunet_difflung.dataset.cache import read_cache
from nnunet_difflung.dataset.hu_check import channels_in_hu
from nnunet_difflung.dataset.orientation import AxialView, axial_view
from nnunet_difflung.dataset.raw_dataset import RawDataset, read_whole
from nnunet_difflung.dataset.reading import judged_channels
from nnunet_difflung.painting.box import box_from
from nnunet_difflung.paths import cache_folder


@dataclass(frozen=True)
class Scan:
    """An image of a case and what its file says about it.

    Attributes:
        identifier: case id.
        image: (c, z, y, x) intensities, in HU for CT.
        label: (z, y, x) label values.
        spacing: (z, y, x) in mm.
        view: how its slices are shown as radiologists see them.
    """

    identifier: str
    image: np.ndarray
    label: np.ndarray
    spacing: tuple[float, float, float]
    view: AxialView


@dataclass(frozen=True)
class InjectedCase(Scan):
    """A synthetic case.

    Attributes:
        before: (c, z, y, x) the host's intensities in the same place.
        label_before: (z, y, x) the host's labels in the same place.
        record: the case's entry in the manifest.
    """

    before: np.ndarray
    label_before: np.ndarray
    record: Mapping[str, Any]

    def new(self, value: int) -> np.ndarray:
        """(z, y, x) the voxels that have a label value which they did not have in the host."""
        return (self.label == value) & (self.label_before != value)


def read_scan(raw: RawDataset, identifier: str) -> Scan:
    """A real case.

    Raises:
        BadInput: a file cannot be read.
    """
    image, properties = raw.read_image(identifier)
    label, _ = raw.read_label(identifier)
    return Scan(identifier, image, label, _spacing(properties), axial_view(properties))


def read_injected(raw: RawDataset, identifier: str, record: Mapping[str, Any], whole: bool = False) -> InjectedCase:
    """A synthetic case and its host.

    Args:
        raw: the dataset.
        identifier: of the synthetic case.
        record: its entry in the manifest.
        whole: put a case that is a part of its host (``--box``) back into all of it.

    Raises:
        BadInput: a file of the case or of its host cannot be read, or broke off.
    """
    ending = raw.dataset_json["file_ending"]
    files = [str(raw.folder / name) for name in record["files"] if name.endswith(ending)]
    images = sorted(file for file in files if "imagesTr" in file.split("/"))
    (label,) = (file for file in files if "labelsTr" in file.split("/"))
    image, properties = read_whole(raw.reader().read_images, images)
    labels = np.rint(read_whole(raw.reader().read_seg, label)[0][0]).astype(np.int16)
    host, box = read_scan(raw, record["host"]), box_from(record)
    before, label_before = host.image[(slice(None), *box)], host.label[box]
    if whole and image.shape != host.image.shape:
        part, label_part = image, labels
        image, labels = host.image.copy(), host.label.copy()
        image[(slice(None), *box)], labels[box] = part, label_part
        before, label_before = host.image, host.label
    return InjectedCase(
        identifier, image, labels, _spacing(properties), axial_view(properties), before, label_before, record
    )


def painted_channel(run: Mapping[str, Any]) -> int:
    """The first channel whose values a network decides, by a run's entry in the manifest; it is the one to show."""
    kinds = {row["channel"]: row["kind"] for row in run.get("channels", ())}
    return next((n for kind in ("free", "few", "tied") for n in sorted(kinds) if kinds[n] == kind), 0)


def in_hu(raw: RawDataset, identifier: str) -> tuple[int, ...]:
    """Numbers of the channels that hold HU: by all cases if they are in the dataset's cache, else by one case.

    Args:
        raw: the dataset.
        identifier: of the case that is read if there is no cache.

    Raises:
        BadInput: a file of the case cannot be read.
    """
    cache = read_cache(raw, cache_folder(raw.name))
    if cache is not None:
        return channels_in_hu(raw, [facts.judged for facts in cache.facts.values()])
    scan = read_scan(raw, identifier)
    return channels_in_hu(raw, [judged_channels(raw.channels, raw.roles, scan.image, scan.label)])


def painted_window(run: Mapping[str, Any], channel: int) -> tuple[float, float] | None:
    """The intensities of a channel that the user asked to paint (``--window``), by a run's entry in the manifest."""
    windows = run["settings"]["generator"].get("windows")
    return (float(windows[channel][0]), float(windows[channel][1])) if windows else None


def _spacing(properties: Mapping[str, Any]) -> tuple[float, float, float]:
    z, y, x = (float(length) for length in properties["spacing"])
    return z, y, x


def cases_of(manifest: Mapping[str, Any], method: str, name: str) -> Sequence[str]:
    """Ids of a method's synthetic cases into which lesions of a class were pasted, sorted."""
    return [
        identifier
        for identifier, record in sorted(manifest["cases"].items())
        if record["method"] == method and has_new(record, name)
    ]


def has_new(record: Mapping[str, Any], name: str) -> bool:
    """Whether a case, by its entry in the manifest, has new lesions of a class; a placebo only has their outlines."""
    return not record.get("placebo") and any(op["pathology"] == name for op in record.get("operations", ()))
