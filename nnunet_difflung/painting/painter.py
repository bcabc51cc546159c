"""Paints a process's batches of an attempt, and measures cases as they become complete.

Each planned case is applied to its host once in an attempt: the host is read and the lesions are warped to make the
jobs, and the result is kept until the last slice of the case is painted; then the case is measured and written. A case
is applied again in three situations: in a further attempt, which begins after all cases were measured; in several
processes, of which each makes the jobs of its own batches (``batches``), if its jobs are in those of two of them; and
if the cases that wait for their last slice take more than ``_WAITING_BYTES`` of memory, in which case the oldest of
them are discarded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.painting.attempt import Attempt
from nnunet_difflung.painting.batches import Batches, KnownBatches, Part, parts_of
from nnunet_difflung.painting.jobs import Job
from nnunet_difflung.preparing.application import AppliedCase, apply_plan
from nnunet_difflung.runtime.parallel import bar, in_threads
from nnunet_difflung.runtime.share import Share
from nnunet_difflung.runtime.signals import Interruption

_WAITING_BYTES = 2**30  # maximum memory of the cases that wait for their last slice


def paint_and_measure(files: Attempt, cases: Sequence[PlannedCase], share: Share, threads: int, progress: bool) -> None:
    """Paints this process's batches of the cases, then measures and writes its cases."""
    # of all cases, whoever paints them: every process refuses a newer version's record before it paints anything
    measured_before = {planned.index for planned in cases if files.is_measured(planned)}
    if len(measured_before) == len(cases):
        return
    part = None
    if share.number > 1:
        threads = 0  # a thread that waits for another process cannot be interrupted
        part = _own_part(files, cases, share)
    own = [p for p in cases if p.index not in measured_before and (part is None or p.index in part.measured)]
    waiting = _Painter(files, share, threads, part).run(cases, own, progress)

    def measure_now(planned: PlannedCase) -> None:
        applied = waiting.cases.pop(planned.index, None) or apply_plan(files.fold, planned, textures=False)
        share.wait_for(files.painted_files(applied))
        files.measure(applied)

    left = [planned for planned in own if not files.is_measured(planned)]
    with in_threads(measure_now, left, threads) as measured:
        visible = progress and share.main
        title = f"fold {files.fold.number}: measuring and writing"
        for _ in bar(measured, visible=visible, total=len(left), desc=title, unit="case", delay=2):
            pass


def _own_part(files: Attempt, cases: Sequence[PlannedCase], share: Share) -> Part:
    """What this one of several processes makes, paints and measures."""
    with Interruption(impatient=True) as interruption:
        for position, planned in enumerate(cases):
            if share.mine(position):
                files.sizes(planned)
                interruption.act()
    share.wait_for(files.sizes_file(planned) for planned in cases)
    sizes = [size for planned in cases for size in files.sizes(planned)]
    indices = [planned.index for planned in cases]
    return parts_of(indices, sizes, files.fold.settings.sampling.batch_size, share.number)[share.index]


class _Waiting:
    """Applied cases that wait for their last slice; the oldest are discarded if they take too much memory."""

    def __init__(self) -> None:
        self.cases: dict[int, AppliedCase] = {}

    def has_room_for(self, applied: AppliedCase) -> bool:
        """Whether a case fits into memory beside the waiting cases."""
        return sum(case.bytes for case in (*self.cases.values(), applied)) <= _WAITING_BYTES

    def add(self, applied: AppliedCase) -> None:
        """Keeps a case, and as many of the earlier cases as fit into memory."""
        while self.cases and not self.has_room_for(applied):
            del self.cases[next(iter(self.cases))]
        self.cases[applied.planned.index] = applied


class _Painter:
    """Paints a process's batches of an attempt, and measures the process's cases as they become complete."""

    def __init__(self, files: Attempt, share: Share, threads: int, part: Part | None):
        self.files, self.share, self.threads, self.part = files, share, threads, part
        size = files.fold.settings.sampling.batch_size
        self.batches: Batches[Job] = KnownBatches(part) if part else Batches(size)
        self.waiting = _Waiting()

    def run(self, cases: Sequence[PlannedCase], own: Sequence[PlannedCase], progress: bool) -> _Waiting:
        """Paints this process's batches of the cases.

        Returns:
            The process's own cases that are not measured yet and are still in memory.
        """
        cases = [planned for planned in cases if self.part is None or planned.index in self.part.wanted]
        total = self.part.slices if self.part else sum(len(planned.slices) for planned in cases)
        attempt = self.files.attempt
        title = f"fold {self.files.fold.number}: "
        title += "painting" if attempt == 0 else f"repainting (try {attempt + 1})"
        title += f", candidate {self.files.candidate + 1}" if self.files.synthesis.selection else ""
        visible = progress and total > 0 and self.share.main
        own_indices = {planned.index for planned in own}
        with (
            Interruption(impatient=True) as interruption,
            bar(total=total, desc=title, unit="slice", visible=visible) as shown,
        ):
            for batch in self._batches_of(cases, own_indices, interruption):
                self.files.paint(batch)
                shown.update(sum(len(job.slices) for job in batch))
                interruption.act()
        return self.waiting

    def _batches_of(
        self, cases: Sequence[PlannedCase], own: set[int], interruption: Interruption
    ) -> Iterator[list[Job]]:
        """Applies the cases one by one; the caller paints each batch before the next case is applied."""
        for planned in cases:
            applied = apply_plan(self.files.fold, planned, textures=True)
            for job in self.files.jobs(applied, self.part.wanted[planned.index] if self.part else None):
                batch = self.batches.add(job)
                if batch:
                    yield batch
            if planned.index in own:
                applied = applied.without_texture()
                if not self.waiting.has_room_for(applied):
                    self._measure_complete(1, interruption)
                self.waiting.add(applied)
            self._measure_complete(max(1, self.threads), interruption)
        yield from self.batches.rest()

    def _measure_complete(self, at_least: int, interruption: Interruption) -> None:
        """Measures the waiting cases whose slices are all painted, if there are at least ``at_least`` of them."""
        complete = self._complete()
        if len(complete) >= at_least:
            cases = [self.waiting.cases.pop(index) for index in complete]
            with in_threads(self.files.measure, cases, self.threads) as measured:
                for _ in measured:
                    interruption.act()

    def _complete(self) -> list[int]:
        """Indices of the cases whose slices are all painted; with several processes, up to the first that is not."""
        incomplete, complete = self.batches.incomplete(), []
        for index, applied in self.waiting.cases.items():
            if index in incomplete:
                continue
            if self.share.number > 1 and not all(file.is_file() for file in self.files.painted_files(applied)):
                break
            complete.append(index)
        return complete
