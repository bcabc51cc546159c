"""Lesions of volumes from slice to slice: each is painted back to where it is, and compared with itself.

    python -m experiments.volumes -d 801 -f 0 --class ground_glass --methods difflung cbmat -o TABLE.json

Train the generators with ``difflung_augment`` first. The real lesions' figures are in the row ``real``.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from experiments.region_painting import Volume, open_fold, painted_volumes
from experiments.regions import REAL, settings_of
from nnunet_difflung.dataset.cache import SliceCache, build_cache
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.evaluation.along_z import FIGURES, AlongZ
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import cache_folder
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import write_json


def measure(raw: RawDataset, cache: SliceCache, o: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Method → patient → figures."""
    rows: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for number in o.f:
        for name in o.methods:
            fold = open_fold(raw, cache, number, settings_of(name, o.preset, o.augment))
            tallies: dict[tuple[str, str], AlongZ] = defaultdict(AlongZ)
            for volume in painted_volumes(fold, o.pathology, o.device, o.seed):
                _add(tallies, name, volume)
            for (row, patient), tally in tallies.items():
                rows[row][f"{number} {patient}"] = tally.row()
            print(f"fold {number}: {name}, {len(tallies) // 2} patients", flush=True)
    return dict(rows)


def _add(tallies: dict[tuple[str, str], AlongZ], name: str, volume: Volume) -> None:
    for row, image in ((name, volume.image), (REAL, volume.real)):
        tallies[row, volume.patient].add(image, volume.lesion, volume.normal)


def summarised(rows: dict[str, dict[str, dict[str, float]]]) -> dict:
    """Method → figure → mean over the patients in which it is known."""
    return {
        name: {figure: float(np.nanmean([row[figure] for row in of.values()])) for figure in FIGURES}
        for name, of in rows.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-d", required=True, help="dataset, in nnUNet_raw")
    p.add_argument("-f", nargs="+", type=int, default=[0], help="folds")
    p.add_argument("--class", dest="pathology", required=True, help="label of the lesions")
    p.add_argument("--methods", nargs="+", default=["difflung"], choices=METHODS)
    p.add_argument("--preset", default="fast", choices=("default", "fast"), help="settings of painting")
    p.add_argument("--augment", default="", metavar="OPTIONS", help="further options of difflung_augment")
    p.add_argument("--seed", type=int, default=1, help="of drawn lesions and noise")
    p.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    p.add_argument("-o", type=Path, required=True, help="JSON file to write")
    o = p.parse_args(arguments)
    try:
        raw = open_raw_dataset(o.d)
        rows = measure(raw, build_cache(raw, cache_folder(raw.name), 1, False), o)
    except BadInput as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    words = [o.o.name if word == str(o.o) else word for word in map(str, arguments or sys.argv[1:])]
    meta = {
        "command": "python -m experiments.volumes " + shlex.join(words),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "dataset": raw.name,
        "class": o.pathology,
        "machine": machine(),
        "versions": versions(),
    }
    methods = summarised(rows)
    write_json(o.o, {"meta": meta, "methods": methods, "per_patient": rows})
    for name, figures in methods.items():
        print(name.ljust(12), "  ".join(f"{f} {v:.{FIGURES[f]}f}" for f, v in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
