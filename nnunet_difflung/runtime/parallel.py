"""Work on several items at a time, in threads or processes, with progress bars that stay short in log files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from tqdm import tqdm

from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.messages import quiet
from nnunet_difflung.runtime.workers import in_processes

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


def in_parallel(work: Callable[[Item], Result], items: Sequence[Item], processes: int, what: str) -> Iterator[Result]:
    """Results of ``work`` for every item, in the items' order, from several processes, with a progress bar.

    Raises:
        BadInput: fewer than one process, or whatever ``work`` raises.
        Failed: a process was killed.
    """
    if processes < 1:
        raise BadInput(f"-np {processes}: expected at least 1 process")
    several = processes > 1 and len(items) > 1
    with in_processes(work, items, processes, script=True) if several else in_threads(work, items, 1) as results:
        yield from bar(results, total=len(items), desc=what, unit=what.removesuffix("s"))
