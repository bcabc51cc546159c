"""Numbers with their nouns or units, words of commands, and many equal lines, for messages."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

_VARYING = re.compile(r"(?<!\w)(['\"]).*?\1(?!\w)|\S*[\d/]\S*")  # what is quoted; words with a digit; paths


def counted(number: int, noun: str) -> str:
    """``1 case``, ``2 cases``; of a noun whose plural ends in s."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def numbers(values: Iterable[float]) -> str:
    """A list of numbers, such as ``[2.5, 0.8]``, with four significant digits."""
    return f"[{', '.join(f'{float(value):.4g}' for value in values)}]"


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours, for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """A number of bytes in B, kB, MB, GB or TB, for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def quoted(*words: str | Path) -> str:
    """Words of a command as they have to be typed: paths with spaces, quotes or ``$`` are quoted."""
    return shlex.join(map(str, words))


def without_folder(word: str) -> str:
    """A word of a command line for publication: an absolute path is reduced to its last part."""
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{Path(value).name if os.path.isabs(value) else value}"


def collapsed(lines: Iterable[str], most: int = 3) -> list[str]:
    """Lines for people, without long runs of the same message.

    Args:
        lines: messages; those that differ only in ids, numbers, paths and quoted names are the same.
        most: of more than one beyond that many, the first ones are kept and the others are counted below them.

    Returns:
        the messages in the order in which each came first.
    """
    kinds: dict[str, list[str]] = {}
    for line in lines:
        kinds.setdefault(_VARYING.sub("#", line), []).append(line)
    shown: list[str] = []
    for alike in kinds.values():
        shown += alike if len(alike) <= most + 1 else [*alike[:most], f"… and {len(alike) - most} more like this"]
    return shown
