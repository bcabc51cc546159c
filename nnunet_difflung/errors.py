"""Errors that the user of a command can resolve."""

from __future__ import annotations

from collections.abc import Sequence


class BadInput(ValueError):
    """Input that a command cannot work with (exit code 2).

    The message is one line that names the file, what was found, what was expected, and the remedy.

    Attributes:
        details: lines to print below the message, such as the remedies to choose from.
    """

    def __init__(self, message: str, details: Sequence[str] = ()):
        super().__init__(message)
        self.details = tuple(details)


class Failed(RuntimeError):
    """A stage ended without a result although the input was correct (exit code 1), such as a failed gate."""
