"""Tables in Markdown, for what is read beside a page or without one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table_lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table.

    Args:
        head: titles of the columns.
        rows: cells, as many as there are titles; a ``|`` in them has to be escaped.
    """
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
