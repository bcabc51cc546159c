"""Runs the commands of a bench, each on one core, with a log and its seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_difflung.commands.small_trainings import installed, shown
from nnunet_difflung.paths import PATH_VARIABLES


class Commands:
    """The commands of one row or of the preparation.

    Args:
        root: folder that holds nnU-Net's three folders.
        log: file that gets the output.

    Attributes:
        seconds: name of a step → seconds.
        cpu: name of a step → seconds of a core, which do not grow when others use the machine.
        typed: the commands as a user would type them.
    """

    def __init__(self, root: Path, log: Path) -> None:
        self.root, self.log = root, log
        self.seconds: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        self.typed: list[str] = []
        for variable in PATH_VARIABLES:
            (root / variable).mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)

    def run(self, step: str, arguments: Sequence[str], variables: Mapping[str, str] | None = None) -> None:
        """Runs a command.

        Raises:
            RuntimeError: it ended with an error; names the log.
        """
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "nnUNet_def_n_proc": "1",
            "nnUNet_compile": "f",
            **(variables or {}),
            **{variable: str(self.root / variable) for variable in PATH_VARIABLES},
        }
        self.typed.append(shown(list(arguments)).replace(str(self.root), "ROOT"))
        begun = time.monotonic()
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"\n$ {self.typed[-1]}\n")
            file.flush()
            process = subprocess.Popen(
                installed(list(arguments)), env=environment, stdout=file, stderr=subprocess.STDOUT
            )
            try:
                _, status, used = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise
        code = process.returncode = os.waitstatus_to_exitcode(status)
        self.seconds[step] = self.seconds.get(step, 0) + time.monotonic() - begun
        self.cpu[step] = self.cpu.get(step, 0) + used.ru_utime + used.ru_stime
        if code:
            raise RuntimeError(f"{self.typed[-1]} failed with exit code {code}; see {self.log}")

    def module(
        self, step: str, name: str, arguments: Sequence[str], variables: Mapping[str, str] | None = None
    ) -> None:
        """Runs a module of this interpreter; see ``run``."""
        self.run(step, [sys.executable, "-m", name, *arguments], variables)
