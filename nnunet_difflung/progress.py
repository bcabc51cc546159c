"""Progress bars that stay short in log files."""
from __future__ import annotations

import sys
from collections.abc import Iterable

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 30


def bar(items: Iterable | None = None, visible: bool = True, **options) -> tqdm:
    """tqdm's bar; where the output is no terminal (a cluster's log), a line every half minute instead of each step.

    Args:
        items: to go through, or None where the caller updates the bar.
        visible: False shows nothing.
        options: tqdm's, such as ``total``, ``desc``, ``unit``, ``initial``, ``delay``.
    """
    seldom = {} if sys.stderr.isatty() else {"mininterval": _SECONDS_BETWEEN_LINES, "miniters": 1}
    return tqdm(items, disable=not visible, **seldom, **options)
