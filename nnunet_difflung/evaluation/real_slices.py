"""Real slices for Table 1: isolated, clipped to a window, with the mask that generators paint from."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.config import CT_WINDOW, GeneratorConfig
from nnunet_difflung.dataset.cache import SliceCache, index_slices
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.errors import BadInput

Window = tuple[float, float]


@dataclass(frozen=True)
class RealSlice:
    """A real slice of a fold.

    Attributes:
        patient: name of the patient.
        case: case id.
        z: index of the slice in the case.
        image: (h, w) float32, the compared channel in the dataset's intensities, clipped to the metrics' window and
            set to its lower end outside lung, structures and body.
        condition: (h, w) uint8 condition map.
    """

    patient: str
    case: str
    z: int
    image: np.ndarray
    condition: np.ndarray

    @property
    def key(self) -> tuple[int, int]:
        """Seed of all random draws for this slice."""
        return zlib.crc32(self.case.encode()), self.z


def metric_window(raw: RawDataset, configs: Sequence[GeneratorConfig], channel: int = 0) -> Window:
    """The intensities that become 0 and 1 before PSNR and SSIM: [−1000, 1000] HU for CT, else the generators' window.

    Raises:
        BadInput: the generators were trained with different windows, so their figures cannot be compared.
    """
    if raw.channels[channel].upper() == "CT":
        return CT_WINDOW
    windows = {config.windows[channel] for config in configs}
    if len(windows) > 1:
        raise BadInput(
            f"the generators of {raw.name} were trained with different windows ({sorted(windows)}), so their "
            f"figures cannot be compared; train them with the same --window"
        )
    return windows.pop()


def real_slice(raw: RawDataset, cache: SliceCache, case: str, z: int, window: Window) -> RealSlice:
    """Loads a slice from the cache."""
    condition = np.array(cache.condition(case)[z])
    image = np.clip(np.asarray(cache.image(case)[0, z], np.float32), *window)
    return RealSlice(raw.patients[case], case, z, np.where(condition > 0, image, np.float32(window[0])), condition)


def slices_with_lung(cache: SliceCache, identifiers: Sequence[str], limit: int | None = None) -> list[tuple[str, int]]:
    """(case, z) of the slices that show lung, by case and z; at most ``limit`` of them, evenly spaced."""
    index = index_slices(cache, identifiers)
    places = list(zip(index.cases, map(int, index.z), strict=True))
    if limit is None or limit >= len(places):
        return places
    return [places[i] for i in np.linspace(0, len(places) - 1, limit).round().astype(int)]


def neighbour_of(raw: RawDataset, cache: SliceCache, true: RealSlice, window: Window) -> RealSlice | None:
    """The next slice of the same patient: next z of a volume, or the patient's next case id.

    None if there is no such slice, or if it shows no lung or has another shape.
    """
    case, z = true.case, true.z + 1
    if z >= cache.facts[case].shape[0]:
        later = sorted(name for name in raw.cases if raw.patients[name] == true.patient and name > case)
        if cache.facts[case].shape[0] > 1 or not later:
            return None
        case, z = later[0], 0
    facts = cache.facts[case]
    if facts.shape[1:] != true.image.shape or not sum(facts.counts[name][z] for name in cache.roles.lung):
        return None
    return real_slice(raw, cache, case, z, window)
