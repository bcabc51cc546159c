"""The notebook runs from top to bottom, with small settings, and is kept without outputs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "paint_a_mask.ipynb"
CELLS = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
SMALL = {"SIZE": 64, "PATIENTS": 5, "SLICES": 2, "EPOCHS": 1, "STEPS": 2}


def test_it_holds_no_outputs():
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in CELLS)


def test_it_runs(tmp_path):
    settings, *others = ("".join(cell["source"]) for cell in CELLS)
    assert set(re.findall(r"^(\w+) = ", settings, re.MULTILINE)) == set(SMALL), "the first cell holds the settings"
    quick = "\n".join(f"{name} = {value}" for name, value in SMALL.items())
    script = tmp_path / "notebook.py"
    script.write_text("\n\n".join([settings, quick, *others]), encoding="utf-8")
    environment = {"MPLBACKEND": "agg", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^planned mask, painted +-\d+", done.stdout, re.MULTILINE), done.stdout
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith("torchinductor_")}  # PyTorch's own
    assert left == {"notebook.py"}, "it leaves nothing behind"
