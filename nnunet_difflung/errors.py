"""Errors that the user of a command can resolve."""

from __future__ import annotations


class BadInput(ValueError):
    """Input that a command cannot work with (exit code 2).

    The message is one line that names the file, what was found, what was expected, and the remedy.
    """


class Failed(RuntimeError):
    """A stage ended without a result although the input was correct (exit code 1), such as a failed gate."""
