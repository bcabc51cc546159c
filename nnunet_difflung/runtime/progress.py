"""How much of a piece of work is done: the work tells it, and whoever called it may show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from nnunet_difflung.runtime.parallel import bar

Item = TypeVar("Item")
Tell = Callable[[float], None]  # gets the share of the work that is done, 0 to 1

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"


def nobody(done: float) -> None:
    """Tells nobody."""


def telling(items: Sequence[Item], tell: Tell) -> Iterator[Item]:
    """The items; tells after each one how many of them are done."""
    for number, item in enumerate(items, start=1):
        yield item
        tell(number / len(items))
    if not items:
        tell(1.0)


def parts(tell: Tell, *weights: float) -> list[Tell]:
    """Tells of the parts of the work, which are done one after the other.

    Args:
        tell: gets the share of the whole.
        weights: for each part, how long it may take compared with the others.
    """
    total, done_before, found = sum(weights), 0.0, []
    for weight in weights:
        found.append(_part(tell, done_before / total, weight / total))
        done_before += weight
    return found


def _part(tell: Tell, before: float, share: float) -> Tell:
    return lambda done: tell(before + share * done)


@contextmanager
def told(what: str, visible: bool = True) -> Iterator[Tell]:
    """A context with a progress bar of the time left, once its work has taken two seconds; yields what moves the bar.

    Args:
        what: the work.
        visible: False shows nothing; nor does a quiet command.
    """
    with bar(total=100.0, desc=what, visible=visible, delay=2, bar_format=_FORMAT) as shown:
        furthest = 0.0

        def tell(done: float) -> None:
            nonlocal furthest
            if done > furthest:
                shown.update(100 * (min(1.0, done) - furthest))
                furthest = min(1.0, done)

        yield tell
