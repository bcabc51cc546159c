"""nnU-Net's commands in a process that has nnU-Net but not this package."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# Python imports it when it starts, after the .pth file of an installed nnunet_difflung, also in spawned processes
_WITHOUT_PACKAGE = """
import os, sys
os.environ.pop("nnUNet_extTrainer", None)

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "nnunet_difflung":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
_CHECK = """
import os
try:
    import nnunet_difflung
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("nnunet_difflung can be imported")
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
try:
    recursive_find_trainer_class_by_name("nnUNetTrainerDiffLung")
except RuntimeError:
    print("nnU-Net knows no nnUNetTrainerDiffLung")
else:
    raise SystemExit("nnU-Net finds nnUNetTrainerDiffLung")
"""
PREDICT = ("nnunetv2.inference.predict_from_raw_data", "predict_entry_point")
INSTALL = ("nnunetv2.model_sharing.entry_points", "install_from_zip_entry_point")


def calling(entry: tuple[str, str], words: Sequence[str | Path]) -> str:
    """Code that runs a console command of nnU-Net, given by module and function."""
    module, function = entry
    arguments = [function, *map(str, words)]
    return (
        f"if __name__ == '__main__':\n    import sys; sys.argv = {arguments!r}\n"
        f"    from {module} import {function}; {function}()\n"
    )


def without_package(folder: Path, code: str, **environment: str) -> str:
    """Runs code in a process in which this package cannot be imported, which is checked first.

    Args:
        folder: an empty one, for the program.
        code: of the program.
        environment: variables.

    Returns:
        its output.
    """
    (folder / "sitecustomize.py").write_text(_WITHOUT_PACKAGE)
    program = folder / "program.py"
    program.write_text(_CHECK + code)
    own = {"OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "0", "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, str(program)], env=os.environ | own | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nnU-Net knows no nnUNetTrainerDiffLung" in done.stdout
    return done.stdout
