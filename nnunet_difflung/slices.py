"""From cases to training examples: a checked, memory-mapped cache, and a sampler that is a function of (seed, step).

The cache keeps each case as two .npy files in the dataset's own intensities (an integer dtype where that is exact),
so it serves every fold and window, and a training step reads only the crops that it needs.
"""
from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from acvl_utils.morphology.morphology_helper import remove_all_but_largest_component
from scipy import ndimage
from skimage.filters import threshold_otsu
from tqdm import tqdm

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.files import read_json, replacing, write_json
from nnunet_difflung.labels import LabelRoles
from nnunet_difflung.processes import Share
from nnunet_difflung.raw_dataset import Case, RawDataset

CT_BODY_THRESHOLD = -500.0  # HU, between lung and soft tissue


@dataclass(frozen=True)
class CaseFacts:
    """What a checked case holds.

    Attributes:
        identifier: case id.
        shape: (z, y, x).
        channels: number of channels.
        spacing: (z, y, x) in mm as nnU-Net's reader gives it.
        dtype: dtype in which the cache keeps the image.
        counts: label name → number of voxels in each slice (z).
        stamp: size and time of the source files, to see that a cached copy is still theirs.
        content: SHA-256 of image and labels, by which a generator knows its training data whatever the files' times.
    """

    identifier: str
    shape: tuple[int, int, int]
    channels: int
    spacing: tuple[float, float, float]
    dtype: str
    counts: dict[str, list[int]]
    stamp: list
    content: str

    def voxels(self, name: str) -> int:
        """Number of voxels of a label in the whole case."""
        return sum(self.counts[name])


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
            body[z] = ndimage.binary_fill_holes(remove_all_but_largest_component(plane))
    return body & (label == 0)


def read_case(raw: RawDataset, case: Case) -> tuple[np.ndarray, np.ndarray, CaseFacts]:
    """Reads a case and checks what nnU-Net would only find hours later.

    Returns:
        image (c, z, y, x), condition map (z, y, x) uint8 (label values, and ``roles.body_value``), facts.

    Raises:
        BadInput: different geometry of image and label, NaN, unknown labels, wrong number of channels.
    """
    image, of_image = raw.read_image(case.identifier)
    label, of_label = raw.read_label(case.identifier)
    _check_geometry(case, image, label, of_image, of_label)
    if len(image) != len(raw.channels):
        raise BadInput(f"{case.images[0]}: {len(image)} channels found, {len(raw.channels)} expected from "
                       f"channel_names in dataset.json; add the missing _XXXX files or correct channel_names")
    if not np.isfinite(image).all():
        bad = int((~np.isfinite(image)).sum())
        raise BadInput(f"{case.images[0]} has {bad} NaN or infinite voxels; replace them (−1000 HU for air)")
    _check_labels(case, label, raw.roles)
    threshold = CT_BODY_THRESHOLD if raw.channels[0].upper() == "CT" else _otsu(image[0])
    condition = label.astype(np.uint8)
    condition[body_mask(image[0], label, threshold)] = raw.roles.body_value
    image = _exact_integers(image)
    counts = {name: np.count_nonzero(label == value, axis=(1, 2)).tolist() for name, value in raw.roles.values.items()}
    facts = CaseFacts(case.identifier, label.shape, len(image), tuple(float(s) for s in of_image["spacing"]),
                      str(image.dtype), counts, _stamp(case),
                      hashlib.sha256(image.tobytes() + label.tobytes()).hexdigest())
    return image, condition, facts


def _check_geometry(case: Case, image, label, of_image: dict, of_label: dict) -> None:
    def refuse(what: str, found, expected) -> None:
        raise BadInput(f"{case.label}: {what} {found} differs from its image's {expected} ({case.images[0]}); "
                       f"resample the label onto the image's grid")

    if label.shape != image.shape[1:]:
        refuse("shape", label.shape, image.shape[1:])
    if not np.allclose(of_image["spacing"], of_label["spacing"], rtol=1e-3):
        refuse("spacing", of_label["spacing"], of_image["spacing"])
    for family in ("sitk_stuff", "nibabel_stuff"):
        for key, expected in of_image.get(family, {}).items():
            if not isinstance(expected, str) and not np.allclose(expected, of_label[family][key], atol=1e-2):
                refuse(key, np.round(of_label[family][key], 3).tolist(), np.round(expected, 3).tolist())


def _check_labels(case: Case, label: np.ndarray, roles: LabelRoles) -> None:
    known = {0, *roles.values.values(), *([] if roles.ignore is None else [roles.ignore])}
    unknown = sorted({int(v) for v in np.unique(label)} - known)
    if unknown:
        raise BadInput(f"{case.label} holds the label {unknown[0]}, but dataset.json knows {sorted(known)}; "
                       f"add the label to dataset.json or correct the file")


def _otsu(channel: np.ndarray) -> float:
    return float(threshold_otsu(channel)) if channel.min() < channel.max() else float(channel.max())


def _exact_integers(image: np.ndarray) -> np.ndarray:
    """The same values in uint8 or int16 where that loses nothing, else float32."""
    for dtype in (np.uint8, np.int16):
        limits = np.iinfo(dtype)
        if limits.min <= image.min() and image.max() <= limits.max and (image == np.rint(image)).all():
            return image.astype(dtype)
    return image.astype(np.float32)


def _stamp(case: Case) -> list:
    return [[Path(f).name, Path(f).stat().st_size, Path(f).stat().st_mtime_ns] for f in (*case.images, case.label)]


class SliceCache:
    """Checked cases of a dataset as memory-mapped arrays in a folder."""

    def __init__(self, folder: Path, facts: dict[str, CaseFacts], roles: LabelRoles):
        self.folder, self.facts, self.roles = folder, facts, roles

    def image(self, identifier: str) -> np.ndarray:
        """(c, z, y, x) memory map in the dataset's own intensities."""
        return np.load(self.folder / f"{identifier}.image.npy", mmap_mode="r")

    def condition(self, identifier: str) -> np.ndarray:
        """(z, y, x) uint8 memory map: label values, and ``roles.body_value`` for the derived body."""
        return np.load(self.folder / f"{identifier}.condition.npy", mmap_mode="r")

    def label(self, identifier: str) -> np.ndarray:
        """(z, y, x) uint8 label values without the derived body class."""
        condition = np.array(self.condition(identifier))
        condition[condition == self.roles.body_value] = 0
        return condition


def check_cases(raw: RawDataset, processes: int = 1, progress: bool = True) -> dict[str, CaseFacts]:
    """Reads and checks every real case and writes nothing.

    Raises:
        BadInput: the first fault found.
    """
    return _each_case(raw, lambda case: read_case(raw, case)[2], processes, progress, "checking cases")


def build_cache(raw: RawDataset, folder: Path, processes: int = 1, progress: bool = True,
                share: Share | None = None) -> SliceCache:
    """Checks every real case and keeps it in ``folder``; cases already there and unchanged are not read again.

    Args:
        raw: the dataset.
        folder: of the cache.
        processes: threads that read cases.
        progress: show a bar.
        share: this process's part, where several build the same cache.

    Raises:
        BadInput: the first fault found among this process's cases.
    """
    folder.mkdir(parents=True, exist_ok=True)
    share = share or Share()
    place = {identifier: position for position, identifier in enumerate(raw.cases)}

    def cached(case: Case) -> CaseFacts:
        path = folder / f"{case.identifier}.json"
        if not share.mine(place[case.identifier]):
            share.wait_until(lambda: _known_facts(path, case, raw.roles))
        known = _known_facts(path, case, raw.roles)
        if known is not None:
            return known
        image, condition, facts = read_case(raw, case)
        for name, array in (("image", image), ("condition", condition)):
            with replacing(folder / f"{case.identifier}.{name}.npy") as temporary, open(temporary, "wb") as file:
                np.save(file, array)
        write_json(path, {"stamp": facts.stamp, "roles": _roles_key(raw.roles), "facts": asdict(facts)})
        return facts

    return SliceCache(folder, _each_case(raw, cached, processes, progress, "caching slices"), raw.roles)


def _known_facts(path: Path, case: Case, roles: LabelRoles) -> CaseFacts | None:
    """What the cache holds of a case, if that is still in its files."""
    known = read_json(path) if path.is_file() else None
    if known is None or known["stamp"] != _stamp(case) or known["roles"] != _roles_key(roles):
        return None
    return _facts(known["facts"])


def _roles_key(roles: LabelRoles) -> str:
    return f"format 2, {sorted(roles.values.items())} ignore={roles.ignore}"


def _facts(known: dict) -> CaseFacts:
    return CaseFacts(**{**known, "shape": tuple(known["shape"]), "spacing": tuple(known["spacing"])})


def _each_case(raw: RawDataset, work, processes: int, progress: bool, title: str) -> dict[str, CaseFacts]:
    with ThreadPoolExecutor(max(1, processes)) as pool:
        results = pool.map(work, raw.cases.values())
        bar = tqdm(results, total=len(raw.cases), desc=title, unit="case", disable=not progress)
        return {facts.identifier: facts for facts in bar}


def class_counts(facts: Sequence[CaseFacts], roles: LabelRoles) -> dict[str, int]:
    """Voxels of normal lung and of each pathology over some cases."""
    return {name: sum(f.voxels(name) for f in facts) for name in roles.lung}
