"""Kills a function at any of its changes of the file system."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

_CALLS = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "fsync", "open")  # of the module os


def in_child(work: Callable[[], None], kill_before: int | None = None) -> tuple[int, int]:
    """Runs ``work`` in a forked process, killed before a chosen change of the file system.

    Returns:
        exit code (9: killed), and the number of calls if it was not killed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        count = 0

        def counted(call):
            def wrapper(*args, **kwargs):
                nonlocal count
                if count == kill_before:
                    os._exit(9)
                count += 1
                return call(*args, **kwargs)

            return wrapper

        for name in _CALLS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
            os.write(writing, str(count).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    os.close(writing)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    written = os.read(reading, 100)
    os.close(reading)
    return code, int(written or 0)
