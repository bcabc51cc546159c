"""One process's part of the work of several processes, and waiting for each other's files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_POLL = 0.05  # seconds between looks for another process's file


@dataclass(frozen=True)
class Share:
    """One process's part of a list of work that all processes have in the same order.

    Attributes:
        index: number of this process, from 0; process 0 writes shared files.
        number: number of processes.
        token: the same in all of these processes, and different in every other start.
    """

    index: int = 0
    number: int = 1
    token: str = ""

    @property
    def main(self) -> bool:
        """Whether this process writes shared files and prints."""
        return self.index == 0

    def mine(self, position: int) -> bool:
        """Whether the work at a position of the list is this process's."""
        return position % self.number == self.index

    def wait_for(self, files: Iterable[Path]) -> None:
        """Returns once other processes have written the files (each appears whole, by a rename)."""
        for file in files:
            if self.number > 1:
                self.wait_until(file.is_file)

    def wait_until(self, done: Callable[[], object]) -> None:
        """Returns once another process's work is done.

        This is not a collective operation: those time out, and a process that has nothing to paint may wait for hours.
        The launcher ends all processes if one fails.
        """
        while not done():
            time.sleep(_POLL)
