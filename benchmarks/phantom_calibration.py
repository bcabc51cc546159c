"""Compares the chest phantom's lung with reader-labelled patches of real CT: how bright, how coarse, how easy to tell.

Needs the training patches of the Chest Imaging Platform as ``cip_emphysema/patches.npz`` (class → (n, 31, 31) HU); they
are not part of the project. Their pixel size is not documented (about 0.6 to 0.7 mm); the phantom's is 0.7 mm.

    python -m benchmarks.phantom_calibration --patients 48

writes ``docs/results/phantom_calibration.json`` and prints the table of ``docs/phantom.md``. The phantom's texture was
fitted with seeds 1000 and 2000; ``--seed`` draws the patients that are measured.
"""

from __future__ import annotations

import argparse
import datetime
import os
from pathlib import Path

import numpy as np

from nnunet_difflung.dataset_conversion.phantom.calibration import CIP_CLASSES, figures, phantom_patches
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import write_json

DATA = Path(os.environ.get("DIFFLUNG_TEST_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
COLUMNS = {
    "mean": ("mean, HU", "{:.0f}"),
    "sd": ("sd, HU", "{:.0f}"),
    "below_950": ("below −950 HU", "{:.2f}"),
    "correlation_1": ("correlation at 1", "{:.2f}"),
    "correlation_2": ("at 2", "{:.2f}"),
    "correlation_4": ("at 4 pixels", "{:.2f}"),
    "auc_of_mean": ("AUC of the mean", "{:.2f}"),
}


def real_patches(folder: Path) -> dict[str, np.ndarray]:
    """Form → real patches (n, 31, 31) HU.

    Raises:
        BadInput: the file is not there.
    """
    path = folder / "cip_emphysema" / "patches.npz"
    if not path.is_file():
        raise BadInput(f"{path} does not exist; set DIFFLUNG_TEST_DATA to the folder that holds cip_emphysema")
    with np.load(path) as content:
        return {form: content[name].astype(np.float32) for form, name in CIP_CLASSES.items()}


def rows_of(patches: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Form → figures, rounded to what the patches can tell."""
    return {
        form: {name: round(value, 3) for name, value in figures(own, patches["normal"]).items()} | {"patches": len(own)}
        for form, own in patches.items()
    }


def table(content: dict) -> str:
    """Real and phantom side by side, in Markdown."""
    lines = ["| form | " + " | ".join(title for title, _ in COLUMNS.values()) + " |", "|---" * (1 + len(COLUMNS)) + "|"]
    for form, real in content["real"].items():
        phantom = content["phantom"][form]
        cells = [f"{style} / {style}".format(real[name], phantom[name]) for name, (_, style) in COLUMNS.items()]
        lines.append(f"| {form} | " + " | ".join(cells).replace("-", "−") + " |")
    return "\n".join(lines)


@command
def main(arguments: list[str] | None = None) -> None:
    """Console entry point."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.phantom_calibration", description=__doc__)
    p.add_argument("--patients", type=int, default=48, help="phantom patients of each form, 12 patches each")
    p.add_argument("--seed", type=int, default=3000, help="of the phantom patients")
    p.add_argument("-o", type=Path, default=Path("docs/results/phantom_calibration.json"), help="JSON file")
    o = p.parse_args(arguments)
    content = {
        "meta": {
            "command": f"python -m benchmarks.phantom_calibration --patients {o.patients} --seed {o.seed}",
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "versions": versions(),
        },
        "real": rows_of(real_patches(DATA)),
        "phantom": rows_of({form: phantom_patches(form, o.patients, o.seed) for form in CIP_CLASSES}),
    }
    write_json(o.o, content)
    print(table(content))


if __name__ == "__main__":
    main()
