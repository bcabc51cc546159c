"""How long does ``difflung_augment --dry-run`` take, against reading every file once with nnU-Net's reader?

Ours reads and checks all cases, plans a fold, compares the images of training and validation, and times the network.
Both are commands of their own, with their imports; the reference reads in one process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.setting import PHANTOM, phantom
from benchmarks.timing import alternating, parser, row, write_rows
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset

_READ = """
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
import sys
for line in sys.stdin:
    *images, label = line.rstrip("\\n").split("\\t")
    SimpleITKIO().read_images(images), SimpleITKIO().read_seg(label)
"""


@contextmanager
def _dataset(name: str | None, size: int, patients: int, slices: int) -> Iterator[str]:
    if name is not None:
        yield name
        return
    with phantom(size, patients, slices, os.cpu_count() or 1):
        yield PHANTOM


def main() -> None:
    """Entry of the command line."""
    p = parser(__doc__, 256, 3)
    p.add_argument("-d", dest="dataset", help="a dataset in nnUNet_raw without a cache (default: a phantom)")
    p.add_argument("--patients", type=int, default=40, help="of the phantom (default: %(default)s)")
    p.add_argument("--slices", type=int, default=25, help="of each patient (default: %(default)s)")
    p.add_argument("-np", default="2", help="processes of ours (default: %(default)s)")
    o = p.parse_args()
    with _dataset(o.dataset, o.size, o.patients, o.slices) as name:
        raw = open_raw_dataset(name)
        command = ["-d", name, "-f", "0", "--preset", "fast", "-device", o.device, "--dry-run", "-np", o.np]
        files = "\n".join("\t".join((*case.images, case.label)) for case in raw.cases.values())

        def ours() -> None:
            program = [sys.executable, "-m", "nnunet_difflung.commands.augment", *command]
            subprocess.run(program, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def reference() -> None:
            subprocess.run([sys.executable, "-c", _READ], check=True, input=files, text=True)

        mine, other = alternating(ours, reference, o.repeats)
    what = f"{len(raw.cases):,} cases of {raw.name}" if o.dataset else f"{len(raw.cases):,} slices of {o.size}²"
    quality = {"did": "checked, planned and compared all cases: ours only"}
    write_rows(
        o.output,
        [row(f"dry run, {what}, -np {o.np}", mine, other, "s", o.device, quality, of=" ".join(command))],
    )


if __name__ == "__main__":
    main()
