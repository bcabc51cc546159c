"""Lesions of volumes from slice to slice: each is painted back to where it is, and compared with itself.

    python -m experiments.volumes -d 801 -f 0 1 --class ground_glass -o TABLE.json --slice-by-slice RESULTS

Train the generators with ``difflung_augment`` first. ``--slice-by-slice`` adds a row of ``difflung --neighbours 0``,
whose generators lie in another folder for nnUNet_results. The row ``real`` holds the real lesions' own figures.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.further import of_augment
from experiments.painted_back import OWN, REAL, about, generators_of, parser, settings_of
from experiments.region_painting import Volume, open_fold, painted_volumes
from nnunet_difflung.comparison.compare import without_nan
from nnunet_difflung.config import METHOD
from nnunet_difflung.dataset.cache import SliceCache, build_cache
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.judging.continuity import FIGURES, AlongZ
from nnunet_difflung.paths import NNUNET_RESULTS, cache_folder
from nnunet_difflung.runtime.files import write_json

SLICE_BY_SLICE = "difflung, slice by slice"


def painters_of(o: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Row of the table, method and folder for nnUNet_results of each painter."""
    painters = [(name, name, os.environ[NNUNET_RESULTS]) for name in o.methods]
    return painters + ([(SLICE_BY_SLICE, METHOD, str(o.slice_by_slice))] if o.slice_by_slice else [])


def measure(raw: RawDataset, cache: SliceCache, o: argparse.Namespace) -> dict[str, dict[str, dict[str, float]]]:
    """Method → patient → figures."""
    usual = os.environ[NNUNET_RESULTS]
    rows: dict[str, dict[str, dict[str, float]]] = defaultdict(dict)
    for number in o.f:
        for name, method, results in painters_of(o):
            os.environ[NNUNET_RESULTS] = results
            option = "--neighbours 0" if name == SLICE_BY_SLICE else ""
            fold = open_fold(raw, cache, number, settings_of(method, o.preset, f"{o.augment} {option}"))
            tallies: dict[tuple[str, str], AlongZ] = defaultdict(AlongZ)
            for volume in painted_volumes(fold, o.pathology, o.device, o.seed):
                _add(tallies, name, volume)
            for (row, patient), tally in tallies.items():
                rows[row][f"{number} {patient}"] = tally.row()
            os.environ[NNUNET_RESULTS] = usual
            print(f"fold {number}: {name}, {len(tallies) // 2} patients", flush=True)
    return dict(rows)


def _add(tallies: dict[tuple[str, str], AlongZ], name: str, volume: Volume) -> None:
    for row, image in ((name, volume.image), (REAL, volume.real)):
        tallies[row, volume.patient].add(image, volume.lesion, volume.normal)


def summarised(rows: dict[str, dict[str, dict[str, float]]]) -> dict:
    """Method → figure → ``mean`` over the patients in whom the real lesions have it too, ``patients``, ``real``."""
    table: dict = {}
    for name, of in rows.items():
        for figure in FIGURES:
            pairs = np.array([[row[figure], rows[REAL][patient][figure]] for patient, row in of.items()])
            known = pairs[np.isfinite(pairs).all(1)]
            mean, real = known.mean(0).tolist() if len(known) else (None, None)
            table.setdefault(name, {})[figure] = {"mean": mean, "real": real, "patients": len(known)}
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    p = parser(__doc__, [METHOD], "of drawn lesions and noise", "JSON file to write")
    p.add_argument("--slice-by-slice", type=Path, metavar="RESULTS", help="folder with generators of --neighbours 0")
    o = p.parse_args(arguments)
    try:
        of_augment("--augment", o.augment, *OWN)
        raw = open_raw_dataset(o.d)
        rows = measure(raw, build_cache(raw, cache_folder(raw.name), 1, False), o)
    except BadInput as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    folders = {str(o.o): o.o.name, str(o.slice_by_slice): "RESULTS"}
    meta = about("volumes", raw, o, list(map(str, arguments or sys.argv[1:])), folders)
    meta |= {"generators": generators_of(raw, o.f, painters_of(o))}
    methods = summarised(rows)
    write_json(o.o, {"meta": meta, "methods": methods, "per_patient": without_nan(rows)})
    for name, figures in methods.items():
        print(name.ljust(25), "  ".join(f"{f} {_shown(v['mean'], FIGURES[f])}" for f, v in figures.items()))
    return 0


def _shown(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
