"""Does the level of a real lesion follow that of the lung around it?

    python -m experiments.levels -d 807 -f 4 -o docs/results/levels.json

For each lesion of a fold's training cases that tells something (``preparing.styles``): the mean of the first channel,
and the level of the normal lung around it. The slope of a least-squares line says how much brighter a lesion is in lung
that is brighter by 1; with ``--level host`` painted lesions follow with this slope, limited to 0 to 1. Intervals: 95 %,
patients drawn with replacement. Validation cases are not looked at.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.dataset.reading import with_class_counts
from nnunet_difflung.lesions.balance import collect_lesions
from nnunet_difflung.preparing.styles import styles_of
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import read_json, write_json

_DRAWS, _SEED = 2000, 1


def slopes(patients: dict[str, list[tuple[float, float]]]) -> dict:
    """Patient → (lung, lesion) levels of the lesions, to the slope with its interval, and the spread of both."""
    pairs = {patient: np.array(values) for patient, values in patients.items()}
    names, rng, drawn = sorted(pairs), np.random.default_rng(_SEED), []
    for _ in range(_DRAWS):
        sample = np.concatenate([pairs[names[i]] for i in rng.integers(len(names), size=len(names))])
        if np.ptp(sample[:, 0]) > 0:
            drawn.append(np.polyfit(*sample.T, 1)[0])
    every = np.concatenate([pairs[name] for name in names])
    return {
        "patients": len(names),
        "lesions": len(every),
        "lung": {"mean": round(every[:, 0].mean(), 1), "sd": round(every[:, 0].std(), 1)},
        "lesion": {"mean": round(every[:, 1].mean(), 1), "sd": round(every[:, 1].std(), 1)},
        "correlation": round(float(np.corrcoef(*every.T)[0, 1]), 3),
        "slope": round(float(np.polyfit(*every.T, 1)[0]), 3),
        "interval": [round(float(v), 3) for v in np.percentile(drawn, (2.5, 97.5))],
    }


def row_of(raw: RawDataset, fold: int) -> dict:
    """Class → ``slopes`` of a fold's training cases."""
    with tempfile.TemporaryDirectory() as folder:
        cache = build_cache(raw, Path(folder), progress=False)
        raw, training = with_class_counts(raw, cache.facts), raw.training_cases(fold)
        classes: dict[str, dict] = {}
        for name, lesions in collect_lesions(training, cache.facts, raw.roles, cache.label).items():
            styles, patients = styles_of(lesions, cache, raw.patients, SamplingConfig(level="host")), defaultdict(list)
            for style in styles.telling:
                patients[style.patient].append((style.lung[0], style.level[0]))
            if len(patients) > 1:
                classes[name] = slopes(patients) | {"used": round(float(styles.slope[0]), 3)}
        return classes


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    p.add_argument("-d", required=True, metavar="DATASET", help="id or name in $nnUNet_raw")
    p.add_argument("-f", type=int, default=4, metavar="FOLD", help="whose training cases are looked at (default: 4)")
    p.add_argument("-o", type=Path, required=True, metavar="FILE", help="JSON file; the dataset's entry is replaced")
    options = p.parse_args()
    content = read_json(options.o) if options.o.is_file() else {}
    raw = open_raw_dataset(options.d)
    content[raw.name] = {
        "meta": {
            "command": f"python -m experiments.levels -d {options.d} -f {options.f} -o {options.o}",
            "date": time.strftime("%Y-%m-%d"),
            "versions": versions(),
            "machine": machine(),
        },
        "fold": options.f,
        "classes": row_of(raw, options.f),
    }
    write_json(options.o, content)
    for name, row in content[raw.name]["classes"].items():
        print(raw.name, name, f"slope {row['slope']} {row['interval']}, {row['lesions']} of {row['patients']} patients")


if __name__ == "__main__":
    main()
