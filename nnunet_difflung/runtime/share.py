"""The share of a process in the work of several processes, and waiting for other processes' files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_POLL = 0.05  # seconds between two checks for another process's file


@dataclass(frozen=True)
class Share:
    """A process's part of a list of work, which all processes have in the same order.

    Attributes:
        index: number of this process, from 0; process 0 writes shared files.
        number: number of processes.
        token: the same in all processes of a start, and different in every other start.
    """

    index: int = 0
    number: int = 1
    token: str = ""

    @property
    def main(self) -> bool:
        """Whether this process writes shared files and prints."""
        return self.index == 0

    def mine(self, position: int) -> bool:
        """Whether this process does the work at a position of the list."""
        return position % self.number == self.index

    def wait_for(self, files: Iterable[Path]) -> None:
        """Returns once other processes have written the files (a file appears complete, by a rename)."""
        for file in files:
            if self.number > 1:
                self.wait_until(file.is_file)

    def wait_until(self, done: Callable[[], object]) -> None:
        """Returns once ``done`` is true, which another process brings about.

        This is not a collective operation, since those time out, and a process with nothing to paint may wait for
        hours. If a process fails, the launcher ends all of them.
        """
        while not done():
            time.sleep(_POLL)
