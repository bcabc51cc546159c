"""Work on several items at a time, in threads or processes, with progress bars that stay short in log files."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import wait
from types import ModuleType
from typing import Any, TypeVar

from tqdm import tqdm

from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.messages import quiet

Item = TypeVar("Item")
Result = TypeVar("Result")

_SECONDS_BETWEEN_LINES = 30


@contextmanager
def in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Iterator[Result]]:
    """Calls ``work`` on items in several threads; if the context is left early, no further item is started.

    Args:
        work: called once for each item.
        items: the items.
        threads: number of threads; with 0 or 1 the calling thread does the work.

    Yields:
        the results in the order of the items.
    """
    if threads < 2:
        yield map(work, items)
        return
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool.map(work, items)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def bar(items: Iterable | None = None, visible: bool = True, **options) -> tqdm:
    """tqdm's bar; if the output is not a terminal (a cluster's log), it prints a line every half minute only.

    Args:
        items: items to iterate over; None if the caller updates the bar.
        visible: False shows nothing; nor does a quiet command.
        options: tqdm's, such as ``total``, ``desc``, ``unit``, ``initial``, ``delay``.
    """
    seldom: dict[str, float] = {} if sys.stderr.isatty() else {"mininterval": _SECONDS_BETWEEN_LINES, "miniters": 1}
    return tqdm(items, disable=quiet() or not visible, **seldom, **options)


@contextmanager
def in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], processes: int, at_a_time: int = 1
) -> Iterator[Iterator[Result]]:
    """Calls ``work`` on items in several processes, which begin at once; leaving the context starts no further item.

    Unlike threads, processes do not wait for each other in Python code; but it takes a second to start them, and
    results are copied.

    Args:
        work: called once for each item; sent once to each process.
        items: the items.
        processes: number of processes.
        at_a_time: items that a process is given at a time; several save time where each takes milliseconds.

    Yields:
        the results in the order of the items.

    Raises:
        BadInput: a process was killed, or whatever ``work`` raises.
    """
    number, sent = max(1, min(processes, len(items))), pickle.dumps(work)
    pool = ProcessPoolExecutor(number, multiprocessing.get_context("spawn"), _worker, (sent,))
    try:
        with nullcontext() if b"__main__" in sent else _without_main():
            results = pool.map(_call, items, chunksize=at_a_time)
        yield _watched(results)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _without_main() -> Iterator[None]:
    """Processes that begin in this context do not run the caller's script, which need not guard its top level then."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _watched(results: Iterator[Result]) -> Iterator[Result]:
    try:
        yield from results
    except BrokenProcessPool as error:
        raise BadInput(
            "a process that -np had started was killed, probably since the memory was full; use a smaller -np"
        ) from error


def in_parallel(work: Callable[[Item], Result], items: Sequence[Item], processes: int, what: str) -> Iterator[Result]:
    """Results of ``work`` for every item, in the items' order, from several processes, with a progress bar.

    Raises:
        BadInput: fewer than one process, or whatever ``work`` raises.
    """
    if processes < 1:
        raise BadInput(f"-np {processes}: expected at least 1 process")
    several = in_processes if processes > 1 and len(items) > 1 else in_threads
    with several(work, items, processes) as results:
        yield from bar(results, total=len(items), desc=what, unit=what.removesuffix("s"))


_work: Callable[[Any], Any]  # of a worker process


def _worker(work: bytes) -> None:
    """Prepares a worker: Ctrl-C is handled by the main process, and SimpleITK uses one thread in each worker."""
    import SimpleITK as sitk

    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    _work = pickle.loads(work)


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed and which would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _call(item: Any) -> Any:
    return _work(item)
