"""Paints a plan with a generator, measures the cases, and writes them as files that only have to be moved.

The files lie in the fold's work folder until they are injected, so an interrupted synthesis can be resumed. The batches
of slices depend on the plan alone, so the files are the same however many processes share the batches and cases.

Each planned case is applied to its host once in an attempt: the host is read and the lesions are warped to make the
jobs, and the result is kept until the last slice of the case is painted; then the case is measured and written. A case
is applied again in three situations: in a further attempt, which begins after all cases were measured; in each of
several processes, since every process has to know all batches; and if the cases that wait for their last slice take
more than ``_WAITING_BYTES`` of memory, in which case the oldest of them are discarded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.generator.encoding import size_factor
from nnunet_difflung.generator.families import family_of
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.painting import selection
from nnunet_difflung.painting.application import AppliedCase, apply_plan
from nnunet_difflung.painting.cases import (
    Synthesis,
    SynthesisResult,
    box_of_case,
    box_record,
    staged_case,
    synthetic_id,
    write_case,
)
from nnunet_difflung.painting.continuity import of_case
from nnunet_difflung.painting.fold import Fold
from nnunet_difflung.painting.gate import Region, measure, passes, pooled, region_of, with_unpainted
from nnunet_difflung.painting.jobs import Job, make_jobs, paint_jobs
from nnunet_difflung.painting.memorisation import nearest, summarise
from nnunet_difflung.painting.normal_pieces import MIN_NORMAL
from nnunet_difflung.painting.placebo_gate import NAME as PLACEBO
from nnunet_difflung.painting.placebo_gate import measure_placebo
from nnunet_difflung.painting.stacks import Stack, stacks_of
from nnunet_difflung.painting.verdict import judge, judge_continuity
from nnunet_difflung.runtime.files import check_format, read_json, replacing, write_json
from nnunet_difflung.runtime.parallel import bar, in_threads
from nnunet_difflung.runtime.share import Share
from nnunet_difflung.runtime.signals import Interruption

_FORMAT = 1  # format number of a case's record
_WAITING_BYTES = 2**30  # maximum memory of the cases that wait for their last slice


def synthesize(
    synthesis: Synthesis, progress: bool = True, share: Share | None = None, threads: int = 1
) -> SynthesisResult:
    """Paints all planned cases, repaints those that fail the gate, and stages those that pass.

    Args:
        synthesis: what to paint.
        progress: show a progress bar.
        share: this process's share of the work if several processes paint; all of them return the same result.
        threads: number of threads that measure and write cases; several processes use none.

    Returns:
        The staged cases, and the dropped cases, of which there are none unless ``--gate`` or ``--memorised`` is
        ``drop``.
    """
    share, fold = share or Share(), synthesis.fold
    sampling = fold.settings.sampling
    result, rows, first_rows = SynthesisResult(), [], []
    pending = list(fold.plan.cases)
    tries = 1 + (sampling.repaints if family_of(fold.method).varies else 0)
    choices: list[dict] = []
    for attempt in range(tries):
        outcomes = _try(synthesis, attempt, pending, share, threads, progress)
        failed = []
        for planned, (chosen, measured, first) in zip(pending, outcomes, strict=True):
            if attempt == 0:
                first_rows.append(first["quality"])
            if chosen:
                result.staged.append(staged_case(synthesis, planned, measured, attempt))
                rows.append(measured)
            else:
                failed.append(planned)
                result.dropped[synthetic_id(fold, planned)] = measured
            choices += [measured["selection"]] if "selection" in measured else []
        pending = failed
        if attempt < tries - 1:
            result.repainted += len(failed)
    rows = _without_excluded(result, rows, sampling.exclude)
    kept = {case.identifier for case in result.staged}
    result.dropped = {i: measured for i, measured in result.dropped.items() if i not in kept}
    result.staged.sort(key=lambda case: case.identifier)
    quality = [row["quality"] for row in rows]
    result.quality, result.quality_of_all = pooled(quality), pooled(first_rows)
    painted = {op.pathology for planned in fold.plan.with_lesions for op in planned.operations}
    result.verdicts = judge(quality, first_rows, synthesis.references, painted if sampling.gate != "off" else ())
    for name, verdict in result.verdicts.items():
        if name in synthesis.continuity and name in synthesis.references:
            of_class = [row["along_z"][name] for row in rows if name in row.get("along_z", {})]
            reference = synthesis.references[name]
            judged = [channel for channel in reference.judged if not reference.channels[channel].constant]
            verdict["pooled"] += judge_continuity(of_class, synthesis.continuity[name], judged)
    result.memorisation = summarise(row["memorisation"] for row in rows)
    if synthesis.selection:
        result.selection = selection.summarise(synthesis.selection, choices)
    result.placebo = _placebo(fold, rows)
    return result


def _without_excluded(result: SynthesisResult, rows: list[dict], exclude: Sequence[str]) -> list[dict]:
    """Drops the staged cases that a reader has refused; returns the measurements of the others.

    They are painted all the same: the last bits of a painted case depend on what is painted along with it, and a case
    keeps its id.
    """
    refused, staged, kept = set(exclude), [], []
    for case, row in zip(result.staged, rows, strict=True):
        if case.identifier in refused:
            result.dropped[case.identifier] = {**row, "excluded": True}
        else:
            staged.append(case)
            kept.append(row)
    result.staged = staged
    return kept


def _try(
    synthesis: Synthesis, attempt: int, pending: Sequence[PlannedCase], share: Share, threads: int, progress: bool
) -> list[tuple[bool, dict, dict]]:
    """Paints cases once, or as often as they have candidates, one of which is then chosen.

    Returns:
        For each case whether it is accepted, its measurements, and those of its first candidate.
    """
    judge = synthesis.selection
    number = {planned.index: judge.number_for(planned) if judge else 1 for planned in pending}
    tried = []
    for candidate in range(max(number.values(), default=0)):
        files, cases = _Attempt(synthesis, attempt, candidate), [p for p in pending if number[p.index] > candidate]
        _paint_and_measure(files, cases, share, threads, progress)
        share.wait_for(files.record(planned) for planned in cases)
        tried.append(files)
    outcomes, chosen_files = [], []
    for planned in pending:
        measured = [files.measured(planned) for files in tried[: number[planned.index]]]
        accept = [accepted(synthesis.fold.settings.sampling, row) for row in measured]
        if judge is None:
            outcomes.append((accept[0], measured[0], measured[0]))
            continue
        chosen, row = selection.chosen_of(judge, planned, attempt, measured, accept)
        outcomes.append((chosen is not None, row, measured[0]))
        chosen_files.append((planned, None if chosen is None else tried[chosen]))
    if judge:
        _write_chosen(tried, chosen_files, share, threads)
    return outcomes


def _write_chosen(
    tried: Sequence[_Attempt], chosen: Sequence[tuple[PlannedCase, _Attempt | None]], share: Share, threads: int
) -> None:
    """Writes this process's chosen candidates as cases, and deletes the slices of all others."""

    def write(choice: tuple[PlannedCase, _Attempt | None]) -> None:
        planned, kept = choice
        if kept and not kept.is_written(planned):
            kept.write(planned)
        for files in tried:
            if files is not kept:
                for path in files.files_of(planned.index):
                    path.unlink(missing_ok=True)

    own = [choice for position, choice in enumerate(chosen) if share.mine(position)]
    with in_threads(write, own, threads if share.number == 1 else 0) as written, Interruption() as interruption:
        for _ in written:
            interruption.act()
    share.wait_for(kept.written_record(planned) for planned, kept in chosen if kept)


def _placebo(fold: Fold, rows: Sequence[dict]) -> dict:
    """What became of the placebo cases; see ``SynthesisResult.placebo``."""
    planned = len(fold.plan.placebos)
    if not planned:
        return {}
    quality = [row["placebo_quality"] for row in rows if "placebo_quality" in row]
    return {
        "planned": planned,
        "kept": len(quality),
        "share": round(len(quality) / len(rows), 4) if rows else 0.0,
        "quality": pooled(quality).get(PLACEBO, {}),
    }


def accepted(sampling: SamplingConfig, measured: dict) -> bool:
    """Whether a painted case may be injected, according to ``--gate``, ``--memorised`` and the fold's segmenter."""
    copied = any(row and row["above_real_p99"] for row in measured["memorisation"].values())
    good = passes(measured["quality"]) and passes(measured.get("placebo_quality", {}))
    by_gate = sampling.gate != "drop" or good
    return by_gate and (sampling.memorised != "drop" or not copied) and selection.recognised(measured)


class _Attempt:
    """One attempt at painting cases, or one candidate of it: its files, and the work on a single case or batch."""

    def __init__(self, synthesis: Synthesis, attempt: int, candidate: int = 0):
        self.synthesis, self.fold, self.attempt, self.candidate = synthesis, synthesis.fold, attempt, candidate
        self.name = f"try{attempt}" + (f"_candidate{candidate}" if candidate else "")
        self.factor = size_factor(synthesis.generator.config)
        self.together = bool(synthesis.generator.config.neighbours)
        self.planned = {planned.index: planned for planned in self.fold.plan.cases}

    def painted_file(self, planned: PlannedCase, stack: Stack) -> Path:
        """File of a painted slice or stack of slices of a planned case."""
        z = planned.slices[stack.positions[0]]
        part = f"_y{stack.crop[0].start}_x{stack.crop[1].start}" if self.together else ""
        return self.fold.work / "painted" / self.name / f"{planned.index:05d}_z{z:04d}{part}.npy"

    def painted_files(self, applied: AppliedCase) -> list[Path]:
        """Files of all that is painted of a planned case."""
        return [self.painted_file(applied.planned, stack) for stack in self.stacks(applied)]

    def files_of(self, index: int) -> list[Path]:
        """Files of what has been painted of a planned case."""
        return sorted((self.fold.work / "painted" / self.name).glob(f"{index:05d}_*.npy"))

    def stacks(self, applied: AppliedCase) -> list[Stack]:
        """What is painted together of a planned case."""
        sampling = self.fold.settings.sampling
        return stacks_of(applied.region, applied.planned.slices, self.factor, sampling, self.together)

    def record(self, planned: PlannedCase) -> Path:
        """File with a case's measurements; written when the case's files are complete, or when it has been rejected.

        It holds ``quality`` (of the gate), ``memorisation`` and, with candidates, ``recognition`` (of the segmenter),
        each of them class → figures; of a placebo case also ``placebo_quality`` (``placebo_gate.measure_placebo``).
        """
        return self.fold.work / "cases" / self.name / f"{synthetic_id(self.fold, planned)}.json"

    def measured(self, planned: PlannedCase) -> dict:
        """Measurements in a case's record.

        Raises:
            BadInput: a newer version wrote it.
        """
        content = _checked(self.record(planned), self.fold.work)
        return {key: value for key, value in content.items() if key != "format"}

    def is_measured(self, planned: PlannedCase) -> bool:
        """Whether a case has a record; a record of a newer version is refused before anything is written."""
        if not self.record(planned).is_file():
            return False
        self.measured(planned)
        return True

    def jobs(self, applied: AppliedCase) -> list[Job]:
        """The slices of a case as inputs of the network."""
        sampling, roles = self.fold.settings.sampling, self.fold.cache.roles
        applied = replace(applied, planned=selection.other_noise(applied.planned, self.candidate))
        return make_jobs(applied, self.synthesis.generator, roles, sampling, self.attempt)

    def paint(self, batch: list[Job]) -> None:
        """Paints the slices of a batch unless all of them have been painted."""
        files = [self.painted_file(self.planned[job.index], job.stack) for job in batch]
        if all(file.is_file() for file in files):
            return
        synthesis, sampling = self.synthesis, self.fold.settings.sampling
        images = paint_jobs(batch, self.fold.method, synthesis.generator, sampling, synthesis.device)
        for file, image in zip(files, images, strict=True):
            with replacing(file) as temporary, open(temporary, "wb") as handle:
                np.save(handle, image.astype(np.float32))

    def measure(self, applied: AppliedCase) -> None:
        """Measures a case whose slices are all painted, and writes its files if it is accepted."""
        synthesis, sampling = self.synthesis, self.fold.settings.sampling
        values = self._values(applied)
        measured: dict[str, Any] = {"quality": {}, "memorisation": {}}
        measured |= box_record(box_of_case(applied, sampling.box))
        if applied.planned.placebo:
            measured["placebo_quality"] = {}
        if sampling.gate != "off":
            part = "placebo_quality" if applied.planned.placebo else "quality"
            quality, unpainted = (self._quality(applied, image) for image in (values, self._unpainted(applied)))
            measured[part] = with_unpainted(quality, unpainted)
            if synthesis.continuity and not applied.planned.placebo:
                measured["along_z"] = of_case(applied, values, self.fold.cache)
        if synthesis.memory:  # what is normal lung can copy no lesion
            measured["memorisation"] = nearest(values, applied.changed, applied.new_label, synthesis.memory)
        if synthesis.selection:
            measured["recognition"] = synthesis.selection.recognition(applied, values)
        elif accepted(sampling, measured):
            write_case(self.fold, applied, values)
        write_json(self.record(applied.planned), {"format": _FORMAT, **measured})

    def written_record(self, planned: PlannedCase) -> Path:
        """File that says that the files of a chosen candidate are complete."""
        return self.fold.work / "cases" / f"{self.name}_chosen" / f"{synthetic_id(self.fold, planned)}.json"

    def is_written(self, planned: PlannedCase) -> bool:
        """Whether the files of a chosen candidate are complete."""
        return self.written_record(planned).is_file()

    def write(self, planned: PlannedCase) -> None:
        """Writes the files of a chosen candidate."""
        applied = apply_plan(self.fold, planned, textures=False)
        write_case(self.fold, applied, self._values(applied))
        write_json(self.written_record(planned), {"format": _FORMAT})

    def _quality(self, applied: AppliedCase, image: np.ndarray) -> dict[str, dict]:
        """How (c, n, y, x) intensities compare with real lesions, or with normal lung in a placebo case."""
        if not applied.planned.placebo:
            return measure(self._regions(applied, image), self.synthesis.references)
        normal = self.fold.cache.roles.is_normal(applied.new_label)
        around = normal & ~applied.region  # the margin is painted, too
        if around.sum() < MIN_NORMAL:  # hardly any lung is left as it was, or the whole slice is painted
            around = normal & ~applied.outline
        if self.synthesis.lung is None or not applied.outline.any():
            return {}
        region = region_of(image, applied.outline, around, self.synthesis.generator.config.windows)
        return measure_placebo(region, int(around.sum()), self.synthesis.lung)

    def _regions(self, applied: AppliedCase, image: np.ndarray) -> dict[str, Region]:
        """The voxels of (c, n, y, x) intensities that got a pathology's label, for each such pathology."""
        roles, windows = self.fold.cache.roles, self.synthesis.generator.config.windows
        normal, regions = roles.is_normal(applied.new_label), {}
        for name in roles.pathologies:
            voxels = applied.changed & (applied.new_label == roles.values[name])
            if voxels.any():
                regions[name] = region_of(image, voxels, normal, windows)
        return regions

    def _unpainted(self, applied: AppliedCase) -> np.ndarray:
        """(c, n, y, x) the host's intensities; channels that are not painted are as in the synthetic case."""
        if not self.fold.relations:
            return applied.image
        values = applied.image.astype(np.float32)
        self.fold.relations.apply(values, applied.image, applied.region, applied.condition)
        return values

    def _values(self, applied: AppliedCase) -> np.ndarray:
        """(c, n, y, x) the host's intensities with the painted region, in which the channels' relations hold."""
        values, planned = applied.image.astype(np.float32), applied.planned
        for stack in self.stacks(applied):
            image = np.load(self.painted_file(planned, stack))
            image = image[:, None] if image.ndim == 3 else image  # as an earlier version wrote it
            for n, (position, own) in enumerate(zip(stack.positions, stack.own, strict=True)):
                view = values[(slice(None), position, *stack.crop)]
                view[:, own] = image[:, n, own]
        outside = applied.region & (applied.condition == 0)
        for channel, (low, _) in enumerate(self.synthesis.generator.config.windows):
            values[channel][outside] = low
        self.fold.relations.apply(values, applied.image, applied.region, applied.condition)
        return values


class _Batches:
    """Groups jobs by shape, in an order that depends on the plan alone."""

    def __init__(self, size: int):
        self.size, self.number = size, 0
        self.groups: dict[tuple[int, int], list[Job]] = {}

    def add(self, job: Job) -> list[Job] | None:
        """Adds a job to its group; returns the group when it is a complete batch."""
        group = self.groups.setdefault(job.shape, [])
        group.append(job)
        return self.groups.pop(job.shape) if sum(len(other.inputs) for other in group) >= self.size else None

    def incomplete(self) -> set[int]:
        """Indices of the planned cases with slices that are not in a complete batch yet."""
        return {job.index for group in self.groups.values() for job in group}


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


def _paint_and_measure(
    files: _Attempt, cases: Sequence[PlannedCase], share: Share, threads: int, progress: bool
) -> None:
    """Paints this process's batches of the cases, then measures and writes its cases."""
    # of all cases, whoever paints them: every process refuses a newer version's record before it paints anything
    measured_before = {planned.index for planned in cases if files.is_measured(planned)}
    if len(measured_before) == len(cases):
        return
    if share.number > 1:
        threads = 0  # a thread that waits for another process cannot be interrupted
    own = [planned for position, planned in enumerate(cases) if share.mine(position)]
    own = [planned for planned in own if planned.index not in measured_before]
    waiting = _Painter(files, share, threads).run(cases, own, progress)

    def measure_now(planned: PlannedCase) -> None:
        applied = waiting.cases.pop(planned.index, None) or apply_plan(files.fold, planned, textures=False)
        share.wait_for(files.painted_files(applied))
        files.measure(applied)

    left = [planned for planned in own if not files.is_measured(planned)]
    with in_threads(measure_now, left, threads) as measured:
        visible = progress and share.main
        for _ in bar(measured, visible=visible, total=len(left), desc="measuring and writing", unit="case", delay=2):
            pass


class _Painter:
    """Paints a process's batches of an attempt, and measures the process's cases as they become complete."""

    def __init__(self, files: _Attempt, share: Share, threads: int):
        self.files, self.share, self.threads = files, share, threads
        self.batches, self.waiting = _Batches(files.fold.settings.sampling.batch_size), _Waiting()

    def run(self, cases: Sequence[PlannedCase], own: Sequence[PlannedCase], progress: bool) -> _Waiting:
        """Paints this process's batches of the cases.

        Returns:
            The process's own cases that are not measured yet and are still in memory.
        """
        total, attempt = sum(len(planned.slices) for planned in cases), self.files.attempt
        title = "painting" if attempt == 0 else f"repainting (try {attempt + 1})"
        title += f", candidate {self.files.candidate + 1}" if self.files.synthesis.selection else ""
        visible = progress and total > 0 and self.share.main
        own_indices = {planned.index for planned in own}
        with (
            Interruption(impatient=True) as interruption,
            bar(total=total, desc=title, unit="slice", visible=visible) as shown,
        ):
            for batch in self._batches_of(cases, own_indices, interruption):
                if self.share.mine(self.batches.number):
                    self.files.paint(batch)
                self.batches.number += 1
                shown.update(sum(len(job.slices) for job in batch))
                interruption.act()
        return self.waiting

    def _batches_of(
        self, cases: Sequence[PlannedCase], own: set[int], interruption: Interruption
    ) -> Iterator[list[Job]]:
        """Applies the cases one by one; the caller paints each batch before the next case is applied."""
        for planned in cases:
            applied = apply_plan(self.files.fold, planned, textures=True)
            for job in self.files.jobs(applied):
                batch = self.batches.add(job)
                if batch:
                    yield batch
            if planned.index in own:
                applied = applied.without_texture()
                if not self.waiting.has_room_for(applied):
                    self._measure_complete(1, interruption)
                self.waiting.add(applied)
            self._measure_complete(max(1, self.threads), interruption)
        yield from self.batches.groups.values()

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


def check_painted(fold: Fold) -> None:
    """Refuses cases that a newer version has painted for the fold, before anything is trained.

    Raises:
        BadInput: names the record and the folder.
    """
    for work in fold.begun_works():  # which of them will be used is known when the generator is trained
        for path in sorted(work.glob("cases/*/*.json")):
            _checked(path, work)


def _checked(record: Path, work: Path) -> dict:
    content = read_json(record)
    check_format(record, content, _FORMAT, f", or delete the folder {work} to paint its cases anew")
    return content
