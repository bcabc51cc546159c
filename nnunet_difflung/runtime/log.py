"""The log of a command: lines with time stamps, in memory until the command knows where its log belongs."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

_NAME, _STAMP = "%Y-%m-%d_%H-%M-%S", "%Y-%m-%d %H:%M:%S"
ENDING = ".log"


class Log:
    """Lines for one file. Nothing is written before ``open``; a command that is refused leaves no log.

    Attributes:
        path: the file; None until it is opened, and again once it cannot be written any more.
    """

    def __init__(self) -> None:
        self.begun = datetime.now()
        self.path: Path | None = None
        self._waiting: list[str] = []

    def add(self, kind: str, text: str) -> None:
        """Adds a text with the time of now; its further lines are indented.

        Args:
            kind: such as ``stage`` or ``warning``.
            text: one or more lines; empty ones are left out.

        Raises:
            OSError: the file cannot be written.
        """
        lines = [line.rstrip() for line in text.splitlines() if line.strip()]
        if lines:
            self._write(_stamped(datetime.now(), kind, lines))

    def begin(self, folder: Path, command: str, typed: str) -> None:
        """Makes the file in a folder, and writes what was added so far.

        Args:
            folder: exists.
            command: begins the file's name.
            typed: the command line.

        Raises:
            OSError: the file cannot be made.
        """
        stem, number = f"{command}_{self.begun.strftime(_NAME)}", 1
        while True:
            path = folder / f"{stem}{f'_{number}' if number > 1 else ''}{ENDING}"
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
                break
            except FileExistsError:  # another command of the same second
                number += 1
        self.path, waiting = path, [_stamped(self.begun, "command", [typed]), *self._waiting]
        self._waiting = []
        for line in waiting:
            self._write(line)

    def _write(self, text: str) -> None:
        if self.path is None:
            self._waiting.append(text)
            return
        # opened anew for each line, so that it is on disk, and so that a forked process holds no copy of the handle
        with open(self.path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text + "\n")


def _stamped(time: datetime, kind: str, lines: list[str]) -> str:
    head = f"{time.strftime(_STAMP)}  {kind:<8}"
    return "\n".join([f"{head}{lines[0].lstrip()}", *(" " * len(head) + line for line in lines[1:])])
