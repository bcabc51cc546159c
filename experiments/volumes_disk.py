"""How much disk do synthetic volumes take, whole and as boxes around what was painted?

    python -m experiments.volumes_disk -d 801 -f 0 -o docs/results/volumes_disk.json

Adds the cases of ``copy_paste``, which has the same masks as other methods, to a dataset of volumes, once whole and
once with ``--box``; lets nnU-Net preprocess the dataset; counts the bytes of the synthetic and of the real training
cases in ``nnUNet_raw`` and in the arrays of ``3d_fullres``; and takes the synthetic cases out again. nnU-Net's plans
and arrays of the real cases stay.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

from experiments.further import of_augment
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.demonstration.small_trainings import installed
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import write_json

METHOD, CONFIGURATION = "copy_paste", "3d_fullres"
OWN = ("-d", "-f", "-c", "--method", "-device")  # --augment may not name them


def measured(dataset: str, fold: int, options: list[str]) -> dict:
    """Bytes of the fold's synthetic cases with further options of ``difflung_augment``, and of the real cases."""
    module = "nnunet_difflung.commands"
    typed = ["-d", dataset, "-f", str(fold), "-c", CONFIGURATION, "--method", METHOD, "-device", "cpu", *options]
    _run(sys.executable, "-m", f"{module}.augment", *typed)
    raw = open_raw_dataset(dataset)
    try:
        _run(*installed(["nnUNetv2_plan_and_preprocess", "-d", dataset, "-c", CONFIGURATION, "-np", "1"]))
        synthetic, arrays = (
            set((read_manifest(raw.folder) or {})["cases"]),
            raw.preprocessed / f"nnUNetPlans_{CONFIGURATION}",
        )
        return {
            "command": " ".join(["difflung_augment", *typed]),
            "synthetic": _bytes(raw.folder, arrays, synthetic) | {"cases": len(synthetic)},
            "real": _bytes(raw.folder, arrays, set(raw.cases) - synthetic) | {"cases": len(set(raw.cases) - synthetic)},
        }
    finally:
        _run(sys.executable, "-m", f"{module}.remove", "-d", dataset, "--method", METHOD)


def _bytes(raw: Path, arrays: Path, cases: set[str]) -> dict[str, int]:
    """Bytes of cases in the raw dataset's folder and in nnU-Net's arrays."""
    images = [file for file in raw.glob("imagesTr/*") if re.sub(r"_\d{4}$", "", _stem(file)) in cases]
    labels = [file for file in raw.glob("labelsTr/*") if _stem(file) in cases]
    made = [file for file in arrays.iterdir() if _stem(file).removesuffix("_seg") in cases]
    return {"raw": _size([*images, *labels]), "arrays": _size(made)}


def _stem(file: Path) -> str:
    return file.name.split(".")[0]


def _size(files: list[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _run(*words: str) -> None:
    print("$", *words, flush=True)
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Command line."""
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    p.add_argument("-d", required=True, metavar="DATASET", help="id or name in $nnUNet_raw, of volumes")
    p.add_argument("-f", type=int, default=0, metavar="FOLD", help="(default: 0)")
    p.add_argument(
        "--augment", default="", help="further options of difflung_augment for both kinds of cases, in one string"
    )
    p.add_argument(
        "--box", default="", metavar="MM", help="around what was painted (default: that of difflung_augment)"
    )
    p.add_argument("-o", type=Path, required=True, metavar="FILE", help="JSON file to write")
    o = p.parse_args()
    try:
        further = of_augment("--augment", o.augment, *OWN, "--box")
        raw = open_raw_dataset(o.d)
        if read_manifest(raw.folder):
            raise BadInput(f"{raw.name} has synthetic cases; take them out with difflung_remove, or use a copy")
    except BadInput as error:
        p.error(str(error))
    box = ["--box", *([o.box] if o.box else [])]
    content = {
        "meta": {
            "command": "python -m experiments.volumes_disk " + " ".join(sys.argv[1:]),
            "dataset": raw.name,
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
        },
        "box": measured(o.d, o.f, [*further, *box]),  # first: it is refused for some channels
        "whole": measured(o.d, o.f, further),
    }
    write_json(o.o, content)
    for key in ("raw", "arrays"):
        print(key, *(f"{content[kind]['synthetic'][key] / 1e6:.1f} MB" for kind in ("whole", "box")))


if __name__ == "__main__":
    main()
