"""Keeps stdout free for a command's JSON object, whoever prints: this process, its libraries, or its children."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from typing import TextIO


@contextmanager
def stdout_kept(silent: bool) -> Iterator[None]:
    """A context in which nothing reaches stdout.

    Args:
        silent: drop what is printed; else it goes to stderr.
    """
    with ExitStack() as stack:
        other: TextIO = stack.enter_context(open(os.devnull, "w", encoding="utf-8")) if silent else sys.stderr
        number, target = _descriptor(sys.stdout), _descriptor(other)
        if number is not None and target is not None:
            sys.stdout.flush()
            kept = os.dup(number)
            stack.callback(_put_back, kept, number)
            os.dup2(target, number)
        stack.enter_context(redirect_stdout(other))
        yield


def _put_back(kept: int, number: int) -> None:
    os.dup2(kept, number)
    os.close(kept)


def _descriptor(stream: TextIO) -> int | None:
    """Number of a stream's file; None if it is not a file, as in a notebook."""
    try:
        return stream.fileno()
    except (AttributeError, OSError, io.UnsupportedOperation):
        return None
