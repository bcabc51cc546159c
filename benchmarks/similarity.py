"""Measures the image check: how often it takes different patients for the same, and how often it finds neighbours.

Needs folders of real CT that are not part of the project; each is optional. Patients are divided into a calibration and
a test half by a seed. "Power" is the share of pairs of slices of one patient, at a distance along z, that are found
among the slices of all other patients of the half.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import platform
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import scipy
import SimpleITK as sitk
from scipy import ndimage

from nnunet_difflung.audit import similarity
from nnunet_difflung.audit.slice_pictures import Picture, picture_of
from nnunet_difflung.dataset_conversion.Dataset800_ChestPhantom import PhantomSettings, calibrate, phantom_cases
from nnunet_difflung.dataset_conversion.phantom.cohort import CohortSettings
from nnunet_difflung.runtime.environment import versions
from nnunet_difflung.runtime.files import read_json, write_json

Volumes = dict[str, list[tuple[np.ndarray, float]]]  # patient → volumes (z, y, x) and their slice spacing in mm
DISTANCES = ((0.4, 1.1), (1.2, 2.1), (2.2, 3.1), (3.2, 4.1), (4.2, 5.1), (5.2, 6.1), (7.9, 9.1), (11.9, 12.1))


def read(path: Path) -> tuple[np.ndarray, float]:
    """(z, y, x) intensities of a file and its slice spacing in mm."""
    image = sitk.ReadImage(str(path))
    return sitk.GetArrayFromImage(image).astype(np.float32), float(image.GetSpacing()[2])


def chests(medseg: Path | None, plethora: Path | None) -> Volumes:
    """Whole chest CT: 8-bit lung windows of MedSeg, HU of PleThora."""
    files = sorted((medseg / "rp_im").glob("*.nii.gz")) if medseg else []
    files += sorted((plethora / "ct").glob("*.nii.gz")) if plethora else []
    return {f"{path.parent.parent.name}/{path.name}": [read(path)] for path in files}


def cut_outs(lidc: Path) -> Volumes:
    """Volumes cut around nodules, without the body's outline."""
    volumes: Volumes = {}
    for path in sorted((lidc / "image").glob("*.nii.gz")):
        volumes.setdefault(path.name.partition("_")[0], []).append(read(path))
    return volumes


def phantoms(patients: int, size: int) -> Volumes:
    """The chest phantom, six slices of each patient."""
    settings = PhantomSettings(CohortSettings(patients, 0, classic=True), size)
    extent = calibrate(settings.cohort, size)
    cases = ((i, phantom_cases(settings, extent, False, i)) for i in range(patients))
    return {f"phantom {i}": [(np.concatenate([case.image for case in own]), 40.0)] for i, own in cases}


class Half:
    """The pictures of half of the patients."""

    def __init__(self, volumes: Volumes, patients: list[str]):
        self.patients = patients
        self.pictures: list[Picture] = []
        self.planes: list[np.ndarray] = []
        places = []
        for number, name in enumerate(patients):
            for volume, (array, spacing) in enumerate(volumes[name]):
                for z, plane in enumerate(array):
                    picture = picture_of(plane)
                    if picture is not None:
                        self.pictures.append(picture)
                        self.planes.append(plane)
                        places.append((number, volume, z * spacing))
        self.owner = np.array([place[0] for place in places])
        self.volume = np.array([place[1] for place in places])
        self.height = np.array([place[2] for place in places])
        self.framed = np.array([picture.framed for picture in self.pictures])
        self.chance = similarity.mirror_similarity(self.pictures)
        self.thresholds = similarity.thresholds_above(self.chance)

    def false_alarms(self, framed: bool) -> dict:
        """Different patients that are taken for the same."""
        lowest = {framed: 0.0, not framed: 2.0}
        matches = similarity.find_matches(self.pictures, lambda rows: self.owner[rows][:, None] != self.owner, lowest)
        best: dict[tuple[int, int], float] = {}
        for match in matches:
            key = tuple(sorted((self.owner[match.first], self.owner[match.second])))
            best[key] = max(best.get(key, 0.0), match.similarity)
        number = len({*self.owner[self.framed == framed]})
        alarms = sum(bool(value >= self.thresholds[framed]) for value in best.values())
        return {
            "patients": number,
            "pairs_of_patients": number * (number - 1) // 2,
            "false_alarms": alarms,
            "slices": int((self.framed == framed).sum()),
            "greatest_similarity_of_different_patients": round(max(best.values(), default=0.0), 3),
            "mirror_images_reach": round(self.chance[framed], 3),
            "threshold": round(self.thresholds[framed], 3),
        }

    def pairs(self, framed: bool, low: float, high: float) -> list[tuple[int, int]]:
        """Slices of one volume at a distance in mm."""
        chosen = np.flatnonzero(self.framed == framed)
        pairs = []
        for i in chosen:
            near = chosen[(self.owner[chosen] == self.owner[i]) & (self.volume[chosen] == self.volume[i])]
            distance = self.height[near] - self.height[i]
            pairs += [(int(i), int(j)) for j in near[(distance >= low) & (distance <= high)]]
        return pairs

    def power(
        self, framed: bool, low: float, high: float, change: Callable[[np.ndarray], np.ndarray] | None = None
    ) -> dict | None:
        """Share of the pairs at a distance that are found; the second slice may be changed before."""
        pairs = self.pairs(framed, low, high)
        if len(pairs) > 400:
            pairs = [pairs[i] for i in np.random.default_rng(0).permutation(len(pairs))[:400]]
        if not pairs:
            return None
        keys = np.stack([picture.key for picture in self.pictures])
        kind = self.framed == framed
        found = 0
        for i, j in pairs:
            other = self.pictures[j] if change is None else picture_of(change(self.planes[j]))
            if other is None or other.framed != framed:
                continue
            strangers = kind & (self.owner != self.owner[i])
            rivals = np.sort(keys[strangers] @ self.pictures[i].key)[::-1][: similarity.CANDIDATES]
            if len(rivals) == similarity.CANDIDATES and other.key @ self.pictures[i].key < rivals[-1]:
                continue
            found += similarity.aligned([self.pictures[i]], [other])[0][0] >= self.thresholds[framed]
        return {"pairs": len(pairs), "found": round(float(found) / len(pairs), 3)}


def changes() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What may have happened to a copy of a slice."""
    rng = np.random.default_rng(0)

    def eight_bits(plane: np.ndarray) -> np.ndarray:
        low, high = (-1350.0, 150.0) if plane.min() < -500 else (float(plane.min()), float(plane.max()))
        return np.rint(np.clip((plane - low) / (high - low), 0, 1) * 255)

    def jpeg(plane: np.ndarray) -> np.ndarray:
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(eight_bits(plane).astype(np.uint8)).save(file, "JPEG", quality=50)
        return np.array(Image.open(file)).astype(np.float32)

    def tight(plane: np.ndarray) -> np.ndarray:
        rows, columns = (np.flatnonzero((plane > np.median(plane) - 1).mean(axis) > 0.05) for axis in (1, 0))
        return plane[rows[0] : rows[-1], columns[0] : columns[-1]]

    return {
        "unchanged": lambda plane: plane,
        "8 bits, lung window": eight_bits,
        "JPEG, quality 50": jpeg,
        "half the pixels": lambda plane: ndimage.zoom(plane, 0.5, order=1),
        "cropped, shifted": lambda plane: np.roll(tight(plane), (4, -6), (0, 1)),
        "softer kernel": lambda plane: ndimage.gaussian_filter(plane, 1.2),
        "sharper kernel": lambda plane: plane + 1.5 * (plane - ndimage.gaussian_filter(plane, 1.2)),
        "noise": lambda plane: plane + rng.normal(0, 0.06 * np.ptp(np.percentile(plane, (1, 99))), plane.shape),
        "turned by 3 degrees": lambda plane: ndimage.rotate(plane, 3, reshape=False, order=1, mode="nearest"),
    }


def measure(volumes: Volumes, framed: bool, seed: int, changed: bool) -> Iterator[tuple[str, dict]]:
    """Both halves of a set: false alarms, power by distance, power of copies."""
    names = sorted(volumes)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    for half, patients in (("calibration", order[: len(order) // 2]), ("test", order[len(order) // 2 :])):
        begun = time.monotonic()
        data = Half(volumes, patients)
        row = data.false_alarms(framed)
        row["not_comparable_slices"] = int((data.framed != framed).sum())
        distances = {f"{low:g} to {high:g} mm": data.power(framed, low, high) for low, high in DISTANCES}
        row["power_by_distance"] = {name: power for name, power in distances.items() if power}
        if changed:
            row["power_of_copies"] = {name: data.power(framed, 0, 0, change) for name, change in changes().items()}
            row["power_of_changed_neighbours"] = {
                name: data.power(framed, 2.2, 4.1, change) for name, change in changes().items()
            }
        row["seconds"] = round(time.monotonic() - begun, 1)
        yield half, row


def main(arguments: list[str] | None = None) -> None:
    """Console entry point."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.similarity", description=__doc__)
    p.add_argument("--medseg", type=Path, help="folder with rp_im/N.nii.gz")
    p.add_argument("--plethora", type=Path, help="folder with ct/LUNG1-NNN.nii.gz")
    p.add_argument("--lidc", type=Path, help="folder with image/PATIENT_R_N.nii.gz, cut-outs of 30 to 60 pixels")
    p.add_argument("--phantoms", type=int, default=60, help="number of phantom patients (default: 60)")
    p.add_argument("--seed", type=int, default=0, help="of the division into halves (default: 0)")
    p.add_argument("--most", type=int, default=1000, help="patients of each set at most, drawn by the seed")
    p.add_argument(
        "-o",
        type=Path,
        default=Path("docs/results/image_check.json"),
        help="JSON file in which the sets that were measured are replaced",
    )
    args = p.parse_args(arguments)
    sets: dict[str, tuple[Volumes, bool]] = {}
    if args.medseg or args.plethora:
        sets["chest CT"] = (chests(args.medseg, args.plethora), True)
    if args.phantoms:
        sets["phantom"] = (phantoms(args.phantoms, 128), True)
    if args.lidc:
        sets["cut-outs around nodules"] = (cut_outs(args.lidc), False)
    for name, (volumes, framed) in sets.items():
        chosen = np.random.default_rng(args.seed).permutation(sorted(volumes))[: args.most]
        halves = dict(measure({p: volumes[p] for p in chosen}, framed, args.seed, name == "chest CT"))
        for half, row in halves.items():
            print(name, half, {key: value for key, value in row.items() if not isinstance(value, dict)}, flush=True)
            for power in itertools.chain.from_iterable(v.items() for v in row.values() if isinstance(v, dict)):
                print("   ", *power, flush=True)
        content = read_json(args.o) if args.o.is_file() else {}  # read late: another set may have been measured
        write_json(args.o, {**content, name: {"about": about(args), **halves}})


def about(args: argparse.Namespace) -> dict:
    """Where and when, from which command."""
    options = [
        f"--{name} {value.name if isinstance(value, Path) else value}"
        for name, value in vars(args).items()
        if value is not None and name != "o"
    ]
    return {
        "command": " ".join(["python -m benchmarks.similarity", *options]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPU cores",
        "versions": {**versions(), "scipy": scipy.__version__},
        "seed": args.seed,
    }


if __name__ == "__main__":
    main()
