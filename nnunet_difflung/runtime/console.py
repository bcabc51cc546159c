"""The entry point of console commands: exit codes, messages for errors, and the JSON object for scripts."""

from __future__ import annotations

import errno
import functools
import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext
from enum import IntEnum
from pathlib import Path
from typing import Any

from nnunet_difflung import __version__
from nnunet_difflung.errors import BadInput, Failed
from nnunet_difflung.paths import PATH_VARIABLES
from nnunet_difflung.runtime.arguments import JSON, QUIET, asks_for
from nnunet_difflung.runtime.messages import Run, failed, logged, running
from nnunet_difflung.runtime.signals import sigterm, terminate
from nnunet_difflung.runtime.streams import stdout_kept
from nnunet_difflung.runtime.strict_json import strict_json
from nnunet_difflung.runtime.writable import is_writable, nearest

OBJECTS = "DIFFLUNG_JSON_OBJECTS"  # variable: folder for the JSON objects of the processes that a command starts
_NOT_ALLOWED = (errno.EACCES, errno.EPERM)
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, *_NOT_ALLOWED)


class Code(IntEnum):
    """Exit codes of all commands; docs/scripting.md explains them."""

    DONE = 0
    FAILED = 1
    REFUSED = 2
    SUSPICION = 3
    INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
    CLOSED = 141  # 128 + SIGPIPE
    TERMINATED = 143  # 128 + SIGTERM


STATUS: dict[int, str] = {
    Code.DONE: "done",
    Code.FAILED: "failed",
    Code.REFUSED: "refused",
    Code.SUSPICION: "suspicion",
    Code.INTERRUPTED: "interrupted",
    Code.TERMINATED: "interrupted",
}


def command(main: Callable[..., int | None]) -> Callable[..., None]:
    """Turns ``main`` into a console entry point.

    ``BadInput`` prints one line on stderr, with its ``details`` below, and gives exit code 2; so does a file that this
    user may not read. ``Failed``, a full disk, or a folder that is not writable prints one line and gives exit code 1.
    Ctrl-C gives 130, SIGTERM 143, and a reader of the output that has gone, such as ``head``, 141, without a word. Any
    other exception is a bug in this package and keeps its traceback. With ``--json`` stdout holds one object, also
    after an error.
    """

    @functools.wraps(main)
    def entry(*args, **kwargs) -> None:
        words = args[0] if args and args[0] is not None else sys.argv[1:]
        run = Run(Path(sys.argv[0]).stem, tuple(words), asks_for(JSON, words), asks_for(QUIET, words))
        before = sigterm(terminate)
        _print_whatever_comes()
        code = int(Code.FAILED)
        try:
            try:
                with running(run), stdout_kept(run.quiet) if run.json or run.quiet else nullcontext():
                    code = _ended(run, lambda: main(*args, **kwargs))
            finally:
                if run.json:
                    _emit(_object(run, code))
            sys.stdout.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # takes what Python writes when it ends
            code = Code.CLOSED
        finally:
            sigterm(before)
        sys.exit(int(code))

    return entry


def _ended(run: Run, main: Callable[[], int | None]) -> int:
    """Runs a command to its end, which is logged; returns its exit code."""
    try:
        code = _code(main)
    except Exception as error:
        if not isinstance(error, BrokenPipeError):
            failed(f"unexpected {type(error).__name__}: {_one_line(error)}")
            logged("end", f"exit code {Code.FAILED:d}")
        raise
    logged("end", f"exit code {code}")
    if run.log is not None and run.log.path is not None and not run.quiet and not run.error:  # an error takes one line
        print(f"Log: {run.log.path}", file=sys.stderr, flush=True)
    return code


def _code(main: Callable[[], int | None]) -> int:
    """Runs a command; prints what it raises for the user, and returns its exit code."""
    try:
        code = main() or Code.DONE
        sys.stdout.flush()
    except SystemExit as stop:  # -h, options that argparse refuses, SIGTERM
        sys.stdout.flush()
        if not isinstance(stop.code, (int, type(None))):
            raise
        code = stop.code or Code.DONE
        if code == Code.TERMINATED:
            failed("terminated; run the same command again to resume")
    except BadInput as error:
        code = _tell("Error", _one_line(error), Code.REFUSED, error.details)
    except Failed as error:
        code = _tell("Failed", _one_line(error), Code.FAILED)
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise
        code = _tell_of_disk(error)
    except KeyboardInterrupt:
        print("Interrupted. Run the same command again to resume.", file=sys.stderr)
        failed("interrupted; run the same command again to resume")
        code = Code.INTERRUPTED
    return int(code)


def _tell(what: str, text: str, code: Code, details: tuple[str, ...] = ()) -> Code:
    print("\n  ".join([f"{what}: {text}", *details]), file=sys.stderr)
    failed(text, details)
    return code


def _tell_of_disk(error: OSError) -> Code:
    """Prints what to do about a file or folder that could not be read or written."""
    refusal = _unreadable(error)
    if refusal:
        return _tell("Error", _one_line(refusal), Code.REFUSED)
    text = (
        f"{os.strerror(error.errno or 0)}: {_place(error)}; free some space or make the folder writable, then run the "
        f"same command again to resume"
    )
    return _tell("Failed", text, Code.FAILED)


def _unreadable(error: OSError) -> BadInput | None:
    """The refusal of a file that this user may not read, or of a folder that they may not enter; None if it is none."""
    if error.errno not in _NOT_ALLOWED or error.filename is None or error.filename2 is not None:
        return None
    there = nearest(Path(os.fsdecode(error.filename)))
    if os.access(there, os.R_OK | (os.X_OK if os.path.isdir(there) else 0)):
        return None
    return BadInput(
        f"{there} cannot be read ({os.strerror(error.errno)}); make it readable for you (chmod, or ask its owner) and "
        f"run the same command again"
    )


def _object(run: Run, code: int) -> dict[str, Any]:
    """The JSON object of a command."""
    status = "problems" if code == Code.FAILED and not run.error else STATUS.get(code, "failed")
    return {
        "command": run.command,
        "version": __version__,
        "status": status,
        "exit_code": code,
        **({"error": run.error, "details": run.details} if run.error else {}),
        "log": run.log.path if run.log is not None else None,
        "warnings": run.warnings,
        "notes": run.notes,
        **run.found,
    }


def _emit(content: dict[str, Any]) -> None:
    """Prints the object; a process that a command has started hands it over, and of several only the first prints."""
    rank, folder = os.environ.get("RANK", "0"), os.environ.get(OBJECTS)
    if folder:
        Path(folder, f"{rank}.json").write_text(strict_json(content), encoding="utf-8")
    elif rank == "0":
        print(strict_json(content))


def objects_in(folder: str) -> list[dict[str, Any]]:
    """The objects that processes have handed over, in the order of their ranks."""
    files = sorted(Path(folder).glob("*.json"), key=lambda path: int(path.stem))
    return [json.loads(path.read_text(encoding="utf-8")) for path in files]


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
            there = nearest(name if os.path.isdir(name) else name.parent)
            if not is_writable(there):
                return str(there)
    return str(names[0]) if names else _free()


def _free() -> str:
    """nnU-Net's folders and the free space in each, for an error that does not name a file."""
    places = [Path(os.environ[v]) for v in PATH_VARIABLES if os.path.isdir(os.environ.get(v, ""))]
    return ", ".join(f"{place} ({shutil.disk_usage(place).free / 1e6:.1f} MB free)" for place in places) or "writing"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
