"""Work on several cases at a time: reading, compressing and numpy let go of Python's lock."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item, Result = TypeVar("Item"), TypeVar("Result")


@contextmanager
def in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Iterator[Result]]:
    """Calls ``work`` on items in several threads; leaving the context early begins no further item.

    Args:
        work: done on each item.
        items: in any number.
        threads: 0 or 1 works in the calling thread.

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
