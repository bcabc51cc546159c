"""What several commands' options have in common: kinds of numbers, options left to a preset."""

from __future__ import annotations

import argparse


def given(options: argparse.Namespace, *names: str) -> dict:
    """The options that were given, by name."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def positive(text: str) -> int:
    """A whole number of at least 1; for argparse, as those below."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


def positive_or_auto(text: str) -> int | None:
    """As ``positive``, or None for ``auto``."""
    return None if text == "auto" else positive(text)


def natural(text: str) -> int:
    """A whole number of at least 0."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return value


def share_of_one(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
