"""The entry point of console commands: messages for errors, and exit codes."""

from __future__ import annotations

import errno
import functools
import io
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from nnunet_difflung.errors import BadInput, Failed
from nnunet_difflung.paths import PATH_VARIABLES
from nnunet_difflung.runtime.signals import sigterm, terminate
from nnunet_difflung.runtime.writable import is_writable, nearest

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def command(main: Callable[..., int | None]) -> Callable[..., None]:
    """Turns ``main`` into a console entry point.

    ``BadInput`` prints one line on stderr, with its ``details`` below, and gives exit code 2. ``Failed``, a full disk,
    or a folder that is not writable prints one line and gives exit code 1. Ctrl-C gives 130, SIGTERM 143, and a reader
    of the output that has gone, such as ``head``, 141, without a word. Any other exception is a bug in this package and
    keeps its traceback.
    """

    @functools.wraps(main)
    def entry(*args, **kwargs) -> None:
        before = sigterm(terminate)
        _print_whatever_comes()
        try:
            try:
                code = main(*args, **kwargs)
            except SystemExit:  # -h, and options that argparse refuses
                sys.stdout.flush()
                raise
            sys.stdout.flush()
        except BadInput as error:
            print("\n  ".join([f"Error: {_one_line(error)}", *error.details]), file=sys.stderr)
            code = 2
        except Failed as error:
            print(f"Failed: {_one_line(error)}", file=sys.stderr)
            code = 1
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what Python writes when it ends
            code = 141  # 128 + SIGPIPE, as a shell reports it
        except OSError as error:
            if error.errno not in _OF_THE_DISK:
                raise
            print(
                f"Failed: {os.strerror(error.errno)}: {_place(error)}; free some space or make the folder "
                f"writable, then run the same command again to resume",
                file=sys.stderr,
            )
            code = 1
        except KeyboardInterrupt:
            print("Interrupted. Run the same command again to resume.", file=sys.stderr)
            code = 130
        finally:
            sigterm(before)
        sys.exit(code or 0)

    return entry


def _print_whatever_comes() -> None:
    """Shows characters that the terminal cannot show, and bytes of names that are not UTF-8, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _place(error: OSError) -> str:
    """The file or folder at fault. A file that is renamed has two names, and the folder of either may be at fault."""
    names = [Path(os.fsdecode(name)) for name in (error.filename2, error.filename) if name is not None]
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        for name in names:
            there = nearest(name if name.is_dir() else name.parent)
            if not is_writable(there):
                return str(there)
    return str(names[0]) if names else _free()


def _free() -> str:
    """nnU-Net's folders and the free space in each, for an error that does not name a file."""
    places = [Path(os.environ[v]) for v in PATH_VARIABLES if os.path.isdir(os.environ.get(v, ""))]
    return ", ".join(f"{place} ({shutil.disk_usage(place).free / 1e6:.1f} MB free)" for place in places) or "writing"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
