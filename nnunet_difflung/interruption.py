"""Ctrl-C and SIGTERM are noted and acted on where nothing is half done."""
from __future__ import annotations

import os
import signal
import threading


class Interruption:
    """Context in which SIGINT and SIGTERM only set a flag.

    ``act`` raises ``KeyboardInterrupt`` for SIGINT and ``SystemExit(143)`` for SIGTERM; so does leaving the context.
    Outside the main thread, where Python allows no handlers, nothing changes.
    """

    def __init__(self, impatient: bool = False) -> None:
        """With ``impatient`` it says so when a signal comes, and a second one acts at once."""
        self.impatient = impatient
        self.received: int | None = None
        self._before: dict[int, object] = {}

    @property
    def asked(self) -> bool:
        """Whether a signal has come."""
        return self.received is not None

    def act(self) -> None:
        """Ends the program's work if a signal has come."""
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
