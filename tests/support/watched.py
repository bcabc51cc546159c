"""``difflung_augment`` that notes which files each process writes: ``python -m tests.support.watched ARGUMENTS``.

``DIFFLUNG_WATCHED`` is the folder for the notes, a file for each process; what they hold is read with ``written``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {"os.rename": 1, "os.remove": 0, "os.rmdir": 0}  # event → which argument is the path


def watch(folder: Path, rank: str) -> None:
    """Notes every file that this process opens for writing or renames to, and whatever it deletes."""
    notes = os.open(folder / f"{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def hook(event: str, arguments: tuple) -> None:
        if (
            event == "open"
            and isinstance(arguments[0], str | os.PathLike)
            and (set(arguments[1] or "") & set("wax+") or (arguments[2] or 0) & _WRITING)
        ):
            path = arguments[0]
        elif event in _CHANGES:
            path = arguments[_CHANGES[event]]
        else:
            return
        os.write(notes, f"{os.path.abspath(os.fspath(path))}\n".encode())

    sys.addaudithook(hook)


def written(folder: Path, rank: int, below: Path) -> list[Path]:
    """What a process changed below a folder, relative to it, in its order; without names of half-written files."""
    paths = [Path(line) for line in (folder / f"{rank}.txt").read_text().splitlines()]
    return [
        path.relative_to(below)
        for path in paths
        if path.is_relative_to(below) and not path.name.startswith(".writing_")
    ]


if __name__ == "__main__":
    watch(Path(os.environ["DIFFLUNG_WATCHED"]), os.environ.get("RANK", "0"))
    from nnunet_difflung.commands.augment import entry

    entry()
