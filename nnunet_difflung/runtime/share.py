"""One process's part of work that several processes do, and waiting for each other's files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_POLL = 0.05  # seconds between looks for another process's file


@dataclass(frozen=True)
class Share:
    """One process's part of work that all processes list in the same order.

    Attributes:
        index: of this process, from 0; process 0 writes what is shared.
        number: of processes.
        token: the same in these processes and in no others, those of an earlier or later start included.
    """

    index: int = 0
    number: int = 1
    token: str = ""

    @property
    def main(self) -> bool:
        """Whether this process writes what is shared and talks to the user."""
        return self.index == 0

    def mine(self, position: int) -> bool:
        """Whether this process does the work at a position of the list."""
        return position % self.number == self.index

    def wait_for(self, files: Iterable[Path]) -> None:
        """Returns once other processes have written the files (each appears whole, by a rename)."""
        for file in files:
            if self.number > 1:
                self.wait_until(file.is_file)

    def wait_until(self, done: Callable[[], object]) -> None:
        """Returns once another process's work is done.

        No collective: those time out, and a process that has nothing to paint may wait for hours. Whoever started the
        processes ends all of them when one fails.
        """
        while not done():
            time.sleep(_POLL)
