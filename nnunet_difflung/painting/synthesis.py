"""Plan + generator → painted, gated cases as files that only have to be moved into the dataset.

Work lies in the generator's folder and is kept until it is injected, so an interrupted synthesis goes on; slices are
painted in batches that depend on the plan alone, so it ends with the same files, whatever the number of processes that
share the batches and the cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.generator.encoding import size_factor
from nnunet_difflung.generator.families import family_of
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.methods import METHODS
from nnunet_difflung.painting.cases import Synthesis, SynthesisResult, load_host, staged_case, synthetic_id, write_case
from nnunet_difflung.painting.gate import measure, passes, pooled
from nnunet_difflung.painting.jobs import Host, Job, crops, make_jobs, paint_jobs, painted_region
from nnunet_difflung.painting.memorisation import nearest, summarise
from nnunet_difflung.runtime.files import check_format, read_json, replacing, write_json
from nnunet_difflung.runtime.parallel import bar, in_threads
from nnunet_difflung.runtime.share import Share
from nnunet_difflung.runtime.signals import Interruption

_FORMAT = 1  # of a case's record


def synthesize(s: Synthesis, progress: bool = True, share: Share | None = None, threads: int = 1) -> SynthesisResult:
    """Paints all planned cases, repaints those that fail the gate, and stages those that pass.

    Args:
        s: what to paint.
        progress: show a bar.
        share: this process's part, where several work on the same synthesis; all of them return the same.
        threads: that measure and write cases, where this process does all of them.

    Returns:
        The staged cases and what was dropped (nothing with ``--gate report`` or ``off``).
    """
    share = share or Share()
    result, rows, first_rows = SynthesisResult(), [], []
    pending = list(s.plan.cases)
    tries = 1 + (s.sampling.repaints if family_of(METHODS[s.method]).varies else 0)
    for attempt in range(tries):
        _paint_all(s, pending, attempt, progress, share)
        mine = [planned for position, planned in enumerate(pending) if share.mine(position)]
        _assemble_all(s, mine, attempt, share, threads, progress)
        share.wait_for(_record(s, planned, attempt) for planned in pending)
        failed = []
        for planned in pending:
            measured = _measured(s, planned, attempt)
            first_rows += [measured["quality"]] if attempt == 0 else []
            if accepted(s.sampling, measured):
                result.staged.append(staged_case(s, planned, measured, attempt))
                rows.append(measured)
            else:
                failed.append(planned)
                result.dropped[synthetic_id(s.method, s.fold, planned.index)] = measured
        pending = failed
        result.repainted += len(failed) if attempt < tries - 1 else 0
    kept = {case.identifier for case in result.staged}
    result.dropped = {i: quality for i, quality in result.dropped.items() if i not in kept}
    result.staged.sort(key=lambda case: case.identifier)
    result.quality, result.quality_of_all = pooled([row["quality"] for row in rows]), pooled(first_rows)
    result.memorisation = summarise(row["memorisation"] for row in rows)
    return result


def accepted(sampling: SamplingConfig, measured: dict) -> bool:
    """Whether a painted case may be injected, by the options for the gate and for memorisation."""
    copied = any(row and row["above_real_p99"] for row in measured["memorisation"].values())
    return (sampling.gate != "drop" or passes(measured["quality"])) and (sampling.memorised != "drop" or not copied)


def _batches(s: Synthesis, cases: list[PlannedCase], attempt: int) -> Iterator[list[Job]]:
    """Jobs grouped by shape, in an order that depends on the plan alone; few hosts are in memory at a time."""
    waiting: dict[tuple[int, int], list[Job]] = {}
    for planned in cases:
        for job in make_jobs(load_host(s, planned, pasted=True), s.generator, s.cache.roles, s.sampling, attempt):
            group = waiting.setdefault(job.shape, [])
            group.append(job)
            if len(group) == s.sampling.batch_size:
                yield waiting.pop(job.shape)
    yield from waiting.values()


def _painted_file(s: Synthesis, case: int, z: int, attempt: int) -> Path:
    return s.work / "painted" / f"try{attempt}" / f"{case:05d}_z{z:04d}.npy"


def _record(s: Synthesis, planned: PlannedCase, attempt: int) -> Path:
    """What was measured of a case in an attempt; written when its files are complete, or not to be."""
    return s.work / "cases" / f"try{attempt}" / f"{synthetic_id(s.method, s.fold, planned.index)}.json"


def _measured(s: Synthesis, planned: PlannedCase, attempt: int) -> dict:
    """Content of a record."""
    path = _record(s, planned, attempt)
    content = read_json(path)
    check_format(path, content, _FORMAT, f", or delete the folder {s.work} to paint its cases anew")
    return {key: value for key, value in content.items() if key != "format"}


def _paint_all(s: Synthesis, cases: list[PlannedCase], attempt: int, progress: bool, share: Share) -> None:
    def file(job: Job) -> Path:
        return _painted_file(s, job.case, job.z, attempt)

    total = sum(len(case.slices) for case in cases)
    title = "painting" if attempt == 0 else f"repainting (try {attempt + 1})"
    with (
        Interruption(impatient=True) as interruption,
        bar(total=total, desc=title, unit="slice", visible=progress and total > 0 and share.main) as shown,
    ):
        for position, jobs in enumerate(_batches(s, cases, attempt)):
            if share.mine(position) and not all(file(job).is_file() for job in jobs):
                for job, image in zip(jobs, _painted(s, jobs), strict=True):
                    with replacing(file(job)) as temporary, open(temporary, "wb") as handle:
                        np.save(handle, image.astype(np.float32))
            shown.update(len(jobs))
            interruption.act()


def _painted(s: Synthesis, jobs: list[Job]) -> list[np.ndarray]:
    return paint_jobs(jobs, METHODS[s.method], s.generator, s.sampling, s.device)


def _assemble_all(
    s: Synthesis, cases: list[PlannedCase], attempt: int, share: Share, threads: int, progress: bool
) -> None:
    def one(planned: PlannedCase) -> None:
        _assemble(s, planned, attempt, share)

    threads = threads if share.number == 1 else 0  # a thread that waits for another process can't be interrupted
    with in_threads(one, cases, threads) as done:
        for _ in bar(
            done, visible=progress and share.main, total=len(cases), desc="measuring and writing", unit="case", delay=2
        ):
            pass


def _assemble(s: Synthesis, planned: PlannedCase, attempt: int, share: Share) -> None:
    """Puts painted slices into a copy of the host, measures them, and writes the case if it is to be kept.

    Its record holds ``quality`` (the gate's) and ``memorisation``, each class → figures.
    """
    record = _record(s, planned, attempt)
    if record.is_file():
        _measured(s, planned, attempt)  # refuses what a newer version wrote before anything is added to it
        return
    host = load_host(s, planned)
    region = painted_region(host, s.cache.roles, s.sampling)
    share.wait_for(_painted_file(s, planned.index, int(z), attempt) for z in np.flatnonzero(region.any((1, 2))))
    values = _values(s, host, region, attempt)
    changed = host.new_label != host.label
    names = {s.cache.roles.values[name]: name for name in s.cache.roles.pathologies}
    painted = {
        name: values[:, changed & (host.new_label == value)]
        for value, name in names.items()
        if (changed & (host.new_label == value)).any()
    }
    measured = {
        "quality": measure(painted, s.references) if s.sampling.gate != "off" else {},
        "memorisation": nearest(values, changed, host.new_label, s.memory) if s.memory else {},
    }
    if accepted(s.sampling, measured):
        write_case(s, host, values, region)
    write_json(record, {"format": _FORMAT, **measured})


def _values(s: Synthesis, host: Host, region: np.ndarray, attempt: int) -> np.ndarray:
    """(c, z, y, x) the host's intensities with the painted region put in."""
    values = host.image.astype(np.float32)
    for z, crop in crops(region, size_factor(s.generator.config), s.sampling):
        image = np.load(_painted_file(s, host.planned.index, z, attempt))
        view = values[(slice(None), z, *crop)]
        view[:, region[z][crop]] = image[:, region[z][crop]]
    outside = region & (host.condition == 0)
    for channel, (low, _) in enumerate(s.generator.config.windows):
        values[channel][outside] = low
    return values
