"""Numbers with their nouns, and words of commands, for messages."""

from __future__ import annotations

import shlex
from pathlib import Path


def counted(number: int, noun: str) -> str:
    """``1 case``, ``2 cases``; of a noun whose plural ends in s."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def quoted(*words: str | Path) -> str:
    """Words of a command as they have to be typed: paths with spaces, quotes or ``$`` are quoted."""
    return shlex.join(map(str, words))
