"""Runs the commands of a bench, each on one core, with a log and its seconds."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from nnunet_difflung.demonstration.small_trainings import installed, shown
from nnunet_difflung.paths import PATH_VARIABLES
from nnunet_difflung.runtime.environment import commit
from nnunet_difflung.runtime.files import read_json, write_json

TRAINING = "train and validate"  # the step of a row that all rows have


@contextmanager
def working_on(path: Path) -> Iterator[int]:
    """Holds the lock of a row; its commands hold it too, also those that outlive a killed bench.

    Yields:
        the lock's descriptor, for ``Commands``.

    Raises:
        RuntimeError: another process works on the row.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(f"another process works on it and holds {path}; run the command again later") from error
        yield descriptor
    finally:
        os.close(descriptor)


class Commands:
    """The commands of one row or of the preparation.

    Args:
        root: folder that holds nnU-Net's three folders.
        log: file that gets the output.
        lock: descriptor of a lock that the commands hold too, so that it is held as long as one of them runs.

    Attributes:
        seconds: name of a step → seconds.
        cpu: name of a step → seconds of a core, which do not grow when others use the machine.
        typed: the commands as a user would type them. A command is on record before it starts, since it may outlive the
            bench.
        commits: those of the checkout when commands began, ``.dirty`` if tracked files were changed; empty without Git.
            A bench takes days, in which the code that its commands run may change.
        unended: the step whose end no bench has seen; empty if there is none. All of these are also of an interrupted
            run in this folder.
    """

    def __init__(self, root: Path, log: Path, lock: int | None = None) -> None:
        self.root, self.log, self.lock = root, log, lock
        self._record = root / "steps.json"
        before = read_json(self._record) if self._record.is_file() else {}
        self.seconds: dict[str, float] = before.get("seconds", {})
        self.cpu: dict[str, float] = before.get("cpu", {})
        self.typed: list[str] = before.get("typed", [])
        self.commits: list[str] = before.get("commits", [])
        self.unended: str = before.get("unended", "")
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
        self.unended = step
        if (at := commit.__wrapped__()) and at not in self.commits:  # of now, not of the bench's beginning
            self.commits.append(at)
        self._write()
        begun = time.monotonic()
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"\n$ {self.typed[-1]}\n")
            file.flush()
            process = subprocess.Popen(
                installed(list(arguments)),
                env=environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                pass_fds=() if self.lock is None else (self.lock,),
            )
            try:
                _, status, used = os.wait4(process.pid, 0)
            except BaseException:
                process.kill()
                raise
        code = process.returncode = os.waitstatus_to_exitcode(status)
        self._ended(step, time.monotonic() - begun, used.ru_utime + used.ru_stime)
        if code:
            raise RuntimeError(f"{self.typed[-1]} failed with exit code {code}; see {self.log}")

    def module(
        self, step: str, name: str, arguments: Sequence[str], variables: Mapping[str, str] | None = None
    ) -> None:
        """Runs a module of this interpreter; see ``run``."""
        self.run(step, [sys.executable, "-m", name, *arguments], variables)

    def ended_unseen(self, step: str, seconds: float, cpu: float) -> None:
        """Takes what a command says that it took, if a bench died before it ended, and else nothing."""
        if self.unended == step:
            self._ended(step, seconds, cpu)

    def _ended(self, step: str, seconds: float, cpu: float) -> None:
        self.seconds[step] = self.seconds.get(step, 0) + seconds
        self.cpu[step] = self.cpu.get(step, 0) + cpu
        self.unended = ""
        self._write()

    def _write(self) -> None:
        record = {"seconds": self.seconds, "cpu": self.cpu, "typed": self.typed, "commits": self.commits}
        write_json(self._record, record | {"unended": self.unended})
