"""How many slices a second does the cache take in, against a plain loop over the files in one thread?

Ours reads with nnU-Net's reader, checks geometry, labels and values, derives the body class and hashes. The reference
reads image and label with SimpleITK, clips, scales to [-1, 1] and saves slice by slice, and checks nothing.
"""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmarks.setting import PHANTOM, multiply, phantom
from benchmarks.timing import alternating, parser, row, write_rows
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.paths import NNUNET_RAW

_SETTLED = 2.1  # seconds; of a file that was just written its time does not tell whether it changed: it is hashed twice


def plain_loop(raw: RawDataset, folder: Path) -> None:
    """What a script for one dataset would do."""
    folder.mkdir()
    for case in raw.cases.values():
        image, label = (sitk.GetArrayFromImage(sitk.ReadImage(f)) for f in (case.images[0], case.label))
        for z, (plane, classes) in enumerate(zip(image, label, strict=True)):
            np.save(folder / f"{case.identifier}_{z}.npy", (np.clip(plane, -1000, 1000) / 1000).astype(np.float32))
            np.save(folder / f"{case.identifier}_{z}_label.npy", classes.astype(np.uint8))


def main() -> None:
    """Entry of the command line."""
    p = parser(__doc__, 256)
    p.add_argument("--patients", type=int, default=6, help="of the phantom, 4 slices each (default: %(default)s)")
    p.add_argument("-np", type=int, default=1, help="processes of ours, as of the command (default: %(default)s)")
    p.add_argument("--times", type=int, default=1, help="as many copies of every case, for growth (default: 1)")
    o = p.parse_args()
    with phantom(o.size, o.patients, 4) as folder:
        multiply(folder / NNUNET_RAW / PHANTOM, o.times)
        raw = open_raw_dataset("800")
        time.sleep(_SETTLED)

        turns = count()  # each writes into a folder of its own, so that no turn pays for deleting the last one's files
        mine, other = alternating(
            lambda: build_cache(raw, folder / f"cache_{next(turns)}", o.np, progress=False),
            lambda: plain_loop(raw, folder / f"plain_{next(turns)}"),
            o.repeats,
        )
    n = len(raw.cases)
    quality = {"checked": "geometry, labels, NaN, SHA-256, body class: ours only"}
    write_rows(
        o.output,
        [
            row(
                f"cache, {o.size}², {n} slices" + (f", -np {o.np}" if o.np > 1 else ""),
                [n / t for t in mine],
                [n / t for t in other],
                "slices/s",
                "cpu",
                quality,
                processes=o.np,
            )
        ],
    )


if __name__ == "__main__":
    main()
