"""Delays Ctrl-C and SIGTERM until nothing is half done; forked workers do not inherit our handler."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any


class Interruption:
    """Context in which SIGINT and SIGTERM only set a flag.

    ``act`` raises ``KeyboardInterrupt`` for SIGINT and ``SystemExit(143)`` for SIGTERM; so does leaving the context.
    Outside the main thread, where Python allows no handlers, nothing changes.
    """

    def __init__(self, impatient: bool = False) -> None:
        """Starts without a signal.

        Args:
            impatient: print a line at the first signal, and act at once at a second signal.
        """
        self.impatient = impatient
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal has been received."""
        return self.received is not None

    def act(self) -> None:
        """Raises the exception of a signal that has been received."""
        if self.received is not None:
            received, self.received = self.received, None
            raise KeyboardInterrupt if received == signal.SIGINT else SystemExit(128 + received)

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, kind, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if kind is None:
            self.act()

    def _note(self, number: int, frame) -> None:
        if self.impatient and self.received is not None:
            self.act()
        self.received = number
        if self.impatient:
            os.write(2, b"\nStopping after this batch; a second signal stops at once.\n")


def sigterm(handler):
    """Sets the handler of SIGTERM and returns the previous one.

    Outside the main thread, where Python allows no handlers, nothing changes and None is returned.
    """
    if handler is None or threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, handler)


def terminate(number: int, frame) -> None:
    """Ends the program like Ctrl-C does, so that every ``finally`` runs."""
    raise SystemExit(128 + number)


def _plain_in_forked_processes() -> None:
    """Removes our SIGTERM handler from a process that has just been forked.

    A pool ends its workers by SIGTERM. Python runs a handler between two instructions, so a worker that waits for a
    lock would wait forever, and its pool for the worker; nnU-Net's check of a dataset has hung for this reason.
    """
    if (getattr(signal.getsignal(signal.SIGTERM), "__module__", None) or "").startswith("nnunet_difflung"):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_plain_in_forked_processes)
