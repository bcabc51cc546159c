"""What a command says: to people on the terminal, to scripts in its JSON object, and to its log.

Every message of this package goes through ``say``, ``note`` or ``warn``. Outside a command, as in a notebook, messages
are printed and nothing is kept.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_difflung import __version__
from nnunet_difflung.runtime.log import Log
from nnunet_difflung.runtime.wording import quoted, without_folder


@dataclass
class Run:
    """A command that is running, and what it has said and found.

    Attributes:
        command: its name, such as ``difflung_augment``.
        words: its arguments.
        json: whether stdout is to hold one JSON object and nothing else.
        quiet: whether to show nothing but warnings and errors.
        error: why it ended without a result; empty if it did not.
        details: further lines of the error.
        warnings: each once.
        notes: each once.
        found: the command's own part of the JSON object.
        log: its log; None once it could not be written.
    """

    command: str
    words: tuple[str, ...] = ()
    json: bool = False
    quiet: bool = False
    error: str = ""
    details: tuple[str, ...] = ()
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    log: Log | None = field(default_factory=Log)


_run: Run | None = None


@contextmanager
def running(run: Run) -> Iterator[None]:
    """A context in which the messages are those of a command."""
    global _run
    before, _run = _run, run
    try:
        yield
    finally:
        _run = before


def named(command: str) -> None:
    """Says what the running command is called."""
    if _run is not None:
        _run.command = command


def quiet() -> bool:
    """Whether nothing but warnings and errors is to be shown."""
    return _run is not None and _run.quiet


def say(text: str, log: bool = True) -> None:
    """Shows a result.

    Args:
        text: one or more lines; those that begin with ``Warning:`` are shown by a quiet command too, on stderr.
        log: whether to log it; not what may name patients or files of an archive.
    """
    print(text, flush=True)
    if log:
        logged("result", text)
    if _run is None:
        return
    for line in map(str.strip, text.splitlines()):
        kind, _, rest = line.partition(": ")
        if kind == "Warning":
            if quiet():
                print(line, file=sys.stderr, flush=True)
            _keep(_run.warnings, rest)
        elif kind.lower() == "note":
            _keep(_run.notes, rest)


def note(text: str) -> None:
    """Shows on stderr what a user may want to know."""
    if not quiet():
        print(f"Note: {text}", file=sys.stderr, flush=True)
    if _run is not None and _keep(_run.notes, text):
        logged("note", text)


def warn(text: str) -> None:
    """Shows on stderr what a user has to look at."""
    text = text.removeprefix("Warning: ")
    print(f"Warning: {text}", file=sys.stderr, flush=True)
    if _run is not None and _keep(_run.warnings, text):
        logged("warning", text)


def _keep(texts: list[str], text: str) -> bool:
    """Adds a text unless it is there; returns whether it was new."""
    if text in texts:
        return False
    texts.append(text)
    return True


def failed(text: str, details: tuple[str, ...] = ()) -> None:
    """Keeps why the command ends without a result."""
    if _run is not None:
        _run.error, _run.details = text, details
        logged("error", "\n".join([text, *details]))


@contextmanager
def stage(name: str, seconds: dict[str, float] | None = None, of: str = "") -> Iterator[None]:
    """A context that is a stage of the command; how long it took is logged and reported, also if it fails.

    Args:
        name: the same in the log, in the JSON object, and in ``seconds``.
        seconds: stage → seconds, to which the stage is added.
        of: what the stage is about, for the line in the log that says that it begins.
    """
    begins(f"{name} {of}".rstrip())
    begun = time.monotonic()
    try:
        yield
    finally:
        spent(name, time.monotonic() - begun, seconds)


def begins(text: str) -> None:
    """Logs that a stage, or a part of one, begins."""
    logged("begin", text)


def spent(name: str, took: float, seconds: dict[str, float] | None = None) -> None:
    """Logs what a stage, or a part of one, has taken, and adds it to the seconds in the JSON object and to others.

    Args:
        name: of the stage.
        took: seconds; tenths are kept, so that all records have the same figure.
        seconds: stage → seconds.
    """
    took = round(took, 1)
    logged("stage", f"{name}: {took:.1f} s")
    for record in (_run.found.setdefault("seconds", {}) if _run is not None else None, seconds):
        if record is not None:
            record[name] = round(record.get(name, 0.0) + took, 1)


def report(**found: Any) -> None:
    """Adds to the command's JSON object; what was reported before under the same key is replaced."""
    if _run is not None:
        _run.found.update(found)


def reported(key: str, default: Any = None) -> Any:
    """What was reported under a key."""
    return default if _run is None else _run.found.get(key, default)


def adopt(content: dict[str, Any]) -> None:
    """Takes over the JSON object of a process that did the work of this one."""
    if _run is None:
        return
    common = ("command", "version", "status", "exit_code", "error", "details", "warnings", "notes")
    _run.warnings += [text for text in content["warnings"] if text not in _run.warnings]
    _run.notes += [text for text in content["notes"] if text not in _run.notes]
    _run.found.update({key: value for key, value in content.items() if key not in common})


def logged(kind: str, text: str) -> None:
    """Adds a text to the log."""
    if _run is not None and _run.log is not None:
        try:
            _run.log.add(kind, text)
        except OSError as error:
            no_log(error, _run.log.path)


def open_log(folder: Path, typed: str = "") -> None:
    """Begins the log's file in a folder that exists. Where that is not possible, a warning says so.

    Args:
        folder: the folder.
        typed: the command line, where it must not be as it was typed.
    """
    if _run is not None and _run.log is not None and _run.log.path is None:
        typed = typed or quoted(_run.command, *map(without_folder, _run.words))
        try:
            _run.log.begin(folder, _run.command, f"{typed}   (nnunet_difflung {__version__})")
        except OSError as error:
            no_log(error, folder)


def no_log(error: OSError, place: Path | None) -> None:
    """Warns that there will be no log, and why; the command goes on."""
    if _run is not None and _run.log is not None:
        _run.log = None
        warn(f"the log cannot be written to {place} ({error.strerror}); the command goes on without it")
