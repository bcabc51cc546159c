"""What goes wrong for a reason that the person at the keyboard can mend."""

from __future__ import annotations


class BadInput(ValueError):
    """Input that cannot be worked with.

    The message is one line that names the file, what was found, what was expected, and the remedy.
    """


class Failed(RuntimeError):
    """A stage ended without its result although the input was right (exit code 1), for example a failed gate."""
