"""Paints a plan with a generator, measures the cases, and writes them as files that only have to be moved.

The files lie in the fold's work folder until they are injected, so an interrupted synthesis can be resumed.
"""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_difflung.generator.families import family_of
from nnunet_difflung.judging import selection
from nnunet_difflung.judging.gate import pooled
from nnunet_difflung.judging.memorisation import summarise
from nnunet_difflung.judging.placebo_gate import NAME as PLACEBO
from nnunet_difflung.judging.verdict import judge, judge_continuity, judge_seam
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.painting.attempt import Attempt, accepted
from nnunet_difflung.painting.cases import Synthesis, SynthesisResult, staged_case, synthetic_id
from nnunet_difflung.painting.painter import paint_and_measure
from nnunet_difflung.runtime.parallel import in_threads
from nnunet_difflung.runtime.share import Share
from nnunet_difflung.runtime.signals import Interruption


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
        if name not in synthesis.references:
            continue
        reference = synthesis.references[name]
        judged = [channel for channel in reference.judged if not reference.channels[channel].constant]
        verdict["seam"] = judge_seam(_of_class(rows, "seam", name), judged, synthesis.seams.get(name, ()))
        if name in synthesis.continuity:
            verdict["pooled"] += judge_continuity(_of_class(rows, "along_z", name), synthesis.continuity[name], judged)
    result.memorisation = summarise(row["memorisation"] for row in rows)
    if synthesis.selection:
        result.selection = selection.summarise(synthesis.selection, choices)
    excluded = sum(row.get("excluded", False) and "placebo_quality" in row for row in result.dropped.values())
    result.placebo = _placebo(synthesis, rows, excluded)
    return result


def _of_class(rows: Sequence[dict], part: str, name: str) -> list:
    """What the cases' measurements hold of a class; records of earlier versions have not every part."""
    return [row[part][name] for row in rows if name in row.get(part, {})]


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
        files, cases = Attempt(synthesis, attempt, candidate), [p for p in pending if number[p.index] > candidate]
        paint_and_measure(files, cases, share, threads, progress)
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
    tried: Sequence[Attempt], chosen: Sequence[tuple[PlannedCase, Attempt | None]], share: Share, threads: int
) -> None:
    """Writes this process's chosen candidates as cases, and deletes the slices of all others."""

    def write(choice: tuple[PlannedCase, Attempt | None]) -> None:
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


def _placebo(synthesis: Synthesis, rows: Sequence[dict], excluded: int) -> dict:
    """What became of the placebo cases; see ``SynthesisResult.placebo``."""
    planned = len(synthesis.fold.plan.placebos)
    if not planned:
        return {}
    quality = [row["placebo_quality"] for row in rows if "placebo_quality" in row]
    return {
        "planned": planned,
        "kept": len(quality),
        **({"excluded": excluded} if excluded else {}),
        "share": round(len(quality) / len(rows), 4) if rows else 0.0,
        "quality": pooled(quality).get(PLACEBO, {}),
        "seam": judge_seam(_of_class(rows, "seam", PLACEBO), synthesis.lung.lung.judged if synthesis.lung else ()),
    }
