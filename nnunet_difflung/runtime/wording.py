"""Numbers with their nouns, for messages."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """``1 case``, ``2 cases``; of a noun whose plural ends in s."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
