"""Work on many patients or files at a time, whose results come in order."""
from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import SimpleITK as sitk

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.progress import bar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Item], Result], items: Sequence[Item], processes: int, what: str) -> Iterator[Result]:
    """Results of ``work`` for every item, in the items' order, behind a progress bar, several at a time.

    Raises:
        BadInput: fewer than one process, or whatever ``work`` raises.
    """
    if processes < 1:
        raise BadInput(f"-np {processes}: expected at least 1 process")
    with contextlib.ExitStack() as stack:
        if processes > 1 and len(items) > 1:
            pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(min(processes, len(items)), _worker))
            results = pool.imap(work, items)
        else:
            results = map(work, items)
        yield from bar(results, total=len(items), desc=what, unit=what.removesuffix("s"))


def _worker() -> None:
    """Leaves Ctrl-C to the main process, which ends its workers, and one thread to each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
