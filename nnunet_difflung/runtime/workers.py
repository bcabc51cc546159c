"""Worker processes: unlike threads, they do not wait for each other in Python code; but they take a second to start."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from multiprocessing.connection import wait
from queue import SimpleQueue
from types import ModuleType
from typing import Any, TypeVar

from nnunet_difflung.errors import Failed

Item = TypeVar("Item")
Result = TypeVar("Result")

_MOST_ON_WINDOWS = 61  # processes that Windows can wait for
_STARTING = threading.Lock()


@contextmanager
def in_processes(
    work: Callable[[Item], Result], items: Sequence[Item], processes: int, at_a_time: int = 1, script: bool = False
) -> Iterator[Iterator[Result]]:
    """Calls ``work`` on items in several processes, which begin at once.

    If the context is left early, what a process has begun is finished, with one more portion. Where processes cannot be
    started, as in a worker of another pool, the calling thread does the work.

    Args:
        work: called once for each item; sent once to each process.
        items: the items.
        processes: number of processes.
        at_a_time: items that a process is given at a time; several save time where each takes milliseconds.
        script: ``work`` or an item may be of the script that runs. Processes import it then, so that it must guard its
            top level by ``if __name__ == "__main__"``; others need not.

    Yields:
        the results in the order of the items.

    Raises:
        Failed: a process was killed, or whatever ``work`` raises.
    """
    pool = _pool(work, processes, len(items))
    if pool is None:
        yield map(work, items)
        return
    running = _Running(pool, [items[n : n + at_a_time] for n in range(0, len(items), at_a_time)])
    try:
        with nullcontext() if script else _without_script():
            running.begin(min(processes, len(items)) + 1)
        yield running.results()
    finally:
        running.stop()
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(work: Callable, processes: int, items: int) -> ProcessPoolExecutor | None:
    """None where processes cannot be started."""
    if multiprocessing.current_process().daemon:
        return None
    number = max(1, min(processes, items, _MOST_ON_WINDOWS if sys.platform == "win32" else processes))
    try:
        return ProcessPoolExecutor(number, multiprocessing.get_context("spawn"), _prepare, (pickle.dumps(work),))
    except (NotImplementedError, ImportError, OSError):  # a system without semaphores
        return None


class _Running:
    """Portions of items in a pool: each one that is finished starts another, whether or not anybody waits for it."""

    def __init__(self, pool: ProcessPoolExecutor, portions: Sequence[Sequence[Any]]):
        self._pool, self._portions = pool, iter(portions)
        self._futures: SimpleQueue[Future | None] = SimpleQueue()  # in the order of the items; None at the end
        self._lock = threading.Lock()

    def begin(self, number: int) -> None:
        """Starts the first portions."""
        for _ in range(number):
            self._start()

    def stop(self) -> None:
        """Starts no further portion."""
        with self._lock:
            self._portions = iter(())

    def results(self) -> Iterator[Any]:
        """The results in the items' order."""
        try:
            while (future := self._futures.get()) is not None:
                yield from future.result()
        except BrokenProcessPool as error:
            raise Failed(
                f"a process that -np had started has ended ({error}), perhaps since the memory was full; run the "
                f"same command again, with a smaller -np"
            ) from error

    def _start(self) -> None:
        with self._lock:
            portion = next(self._portions, None)
            try:
                future = None if portion is None else self._pool.submit(_of_each, portion)
            except BrokenProcessPool as error:
                future = Future()
                future.set_exception(error)
            self._futures.put(future)
        if future is not None:
            future.add_done_callback(self._go_on)

    def _go_on(self, future: Future) -> None:
        if future.cancelled() or future.exception() is not None:  # the pool may hold its lock
            self._futures.put(None)
        else:
            self._start()


@contextmanager
def _without_script() -> Iterator[None]:
    """Processes that begin in this context do not import the script that runs."""
    with _STARTING:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


_work: Callable[[Any], Any]  # of a worker process


def _prepare(work: bytes) -> None:
    """Prepares a worker: Ctrl-C is handled by the main process, and SimpleITK uses one thread in each worker."""
    global _work
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    _work = pickle.loads(work)


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed and which would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _of_each(items: Sequence[Any]) -> list[Any]:
    return [_work(item) for item in items]
