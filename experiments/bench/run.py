"""Works through the rows of a bench, several at a time, and says how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from statistics import mean

from experiments.bench.arms import ARMS
from experiments.bench.commands import TRAINING
from experiments.bench.rows import Row, Store

PER_ITERATION, PER_TRAINING, PER_PAINTING = 0.09, 60.0, 240.0  # seconds on one core, until rows are measured


def expected(row: Row, finished: Sequence[dict]) -> float:
    """Seconds that a row will take: the mean of finished rows of its arm and length, else a rule of thumb.

    Rows that do not know how long their training took do not count.
    """
    alike = [
        sum(
            content["seconds"][step]
            for step in ("link", "augment", "preprocess", TRAINING)
            if step in content["seconds"]
        )
        for content in finished
        if (content["row"]["arm"], content["row"]["iterations"]) == (row.arm, row.iterations)
        and TRAINING in content["seconds"]
    ]
    if alike:
        return mean(alike)
    method = ARMS[row.arm].method
    painting = 0.0 if not method else PER_TRAINING if method == "copy_paste" else PER_PAINTING
    return PER_TRAINING + row.iterations * PER_ITERATION + painting


def clock(seconds: float) -> str:
    """Hours and minutes."""
    return f"{seconds // 3600:.0f} h {seconds % 3600 / 60:.0f} min"


def work_through(
    rows: Sequence[Row],
    store: Store,
    make: Callable[[Row], dict | None],
    jobs: int,
    say: Callable[[str], None] = print,
    tidy: Callable[[Row], None] = lambda row: None,
) -> int:
    """Makes rows in their order, ``jobs`` at a time, and writes each as soon as it is complete.

    Args:
        rows: those that are not complete yet.
        store: takes them.
        make: makes one, or returns None where another process has made it; an error is reported, and the other rows
            go on.
        jobs: rows at a time.
        say: prints a line.
        tidy: deletes what a row needs no longer; called when its file is written.

    Returns:
        The number of rows that failed.
    """
    waiting, running, failures = list(rows), {}, 0
    finished = store.read()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    row = waiting.pop(0)
                    running[pool.submit(make, row)] = row
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    row, error = running.pop(future), future.exception()
                    content = None if error else future.result()
                    if content is not None:
                        store.add(row, content)
                        tidy(row)
                        finished.append(content | {"row": vars(row)})
                    failures += error is not None
                    left = sum(expected(r, finished) for r in (*waiting, *running.values())) / jobs
                    state = "done" if error is None else f"FAILED: {error}"
                    say(
                        f"{time.strftime('%H:%M:%S')} {row.name}: {state}; {len(waiting) + len(running)} rows left, "
                        f"about {clock(left)}"
                    )
        except BaseException:
            waiting.clear()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return failures
