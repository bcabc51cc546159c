"""What every console command of this package shares: how bad input reaches the person who typed it."""
from __future__ import annotations

import errno
import functools
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
PATH_VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")


class BadInput(ValueError):
    """Input that cannot be worked with.

    The message is one line that names the file, what was found, what was expected, and the remedy.
    """


class Failed(RuntimeError):
    """A stage ended without its result although the input was right (exit code 1), for example a failed gate."""


def command(main: Callable[..., int | None]) -> Callable[..., None]:
    """Turns ``main`` into a console entry point.

    ``BadInput`` becomes one line on stderr and exit code 2, ``Failed``, a full disk or a folder that cannot be written
    one line and exit code 1, Ctrl-C exit code 130, SIGTERM 143. Everything else is a defect of ours and keeps its
    traceback.
    """

    @functools.wraps(main)
    def entry(*args, **kwargs) -> None:
        before = _sigterm(_terminate)
        try:
            code = main(*args, **kwargs)
        except BadInput as error:
            print(f"Error: {_one_line(error)}", file=sys.stderr)
            code = 2
        except Failed as error:
            print(f"Failed: {_one_line(error)}", file=sys.stderr)
            code = 1
        except OSError as error:
            if error.errno not in _OF_THE_DISK:
                raise
            print(f"Failed: {os.strerror(error.errno)}: {error.filename or _free()}; make room or make it writable, "
                  f"the same command goes on then", file=sys.stderr)
            code = 1
        except KeyboardInterrupt:
            print("Interrupted. The same command goes on from here.", file=sys.stderr)
            code = 130
        finally:
            _sigterm(before)
        sys.exit(code or 0)

    return entry


def _sigterm(handler):
    """Sets what SIGTERM does and returns what it did; outside the main thread Python allows no handlers."""
    if handler is None or threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, handler)


def _terminate(number: int, frame) -> None:
    """Ends as Ctrl-C does, through every ``finally``; files are written whole or not at all wherever this comes."""
    raise SystemExit(128 + number)


def _plain_in_forked_processes() -> None:
    """Takes our handlers of SIGTERM out of a process that was just forked.

    A pool ends its workers by SIGTERM. Python calls a handler between two instructions, so one that waits for a lock
    just then would go on waiting, and its pool for it: nnU-Net's check of a dataset has hung so.
    """
    if (getattr(signal.getsignal(signal.SIGTERM), "__module__", None) or "").startswith(__package__):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_plain_in_forked_processes)


def _free() -> str:
    """Where nnU-Net's folders are and what is free there, for a fault that does not say where it was."""
    places = [Path(os.environ[v]) for v in PATH_VARIABLES if os.path.isdir(os.environ.get(v, ""))]
    return ", ".join(f"{place} ({shutil.disk_usage(place).free / 1e6:.1f} MB free)" for place in places) or "writing"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def nnunet_folder(variable: str) -> str:
    """Value of one of nnU-Net's three path variables.

    Raises:
        BadInput: the variable is not set or names no folder.
    """
    value = os.environ.get(variable)
    if not value:
        raise BadInput(f"the environment variable {variable} is not set; export {', '.join(PATH_VARIABLES)} "
                       f"as nnU-Net's installation page describes")
    if not os.path.isdir(value):
        raise BadInput(f"{variable}={value} is not a folder; create it (mkdir -p {value}) or correct the variable")
    return value


def without_folder(word: str) -> str:
    """A typed word as it may be published: of an absolute path only the last part."""
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{Path(value).name if os.path.isabs(value) else value}"
