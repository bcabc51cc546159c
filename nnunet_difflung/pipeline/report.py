"""What goes on record of a run: the report, the entry in the manifest, and the audit at its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from nnunet_difflung.audit.audit import audit
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.errors import Failed
from nnunet_difflung.painting.cases import Synthesis, SynthesisResult
from nnunet_difflung.paths import NNUNET_RESULTS, nnunet_folder, others_with_id
from nnunet_difflung.pipeline.images import suspicion
from nnunet_difflung.pipeline.on_record import add_rows, report_path
from nnunet_difflung.pipeline.request import Request
from nnunet_difflung.preparing.fold import Fold
from nnunet_difflung.runtime.messages import report, say, stage, warn
from nnunet_difflung.runtime.wording import quoted
from nnunet_difflung.telling.next_commands import next_commands
from nnunet_difflung.telling.scripts import report_injected

_INTERRUPTED = "it was interrupted before its cases were in the dataset; run the same command again"


def conclude(
    raw: RawDataset,
    done: list[tuple[Synthesis, SynthesisResult]],
    complete: list[Fold],
    seconds: dict[str, float],
    request: Request,
    preview: Path | None,
) -> None:
    """Writes the report of what is in the dataset now, audits it and prints the commands to run next.

    Args:
        raw: the dataset.
        done: the folds that got synthetic cases.
        complete: the folds to which nothing had to be added.
        seconds: stage → time that it took.
        request: the request.
        preview: picture of synthetic cases; None if there is none.

    Raises:
        Failed: the audit found a leak.
    """
    _add_rows(raw, done, complete, seconds, request)
    if preview:
        say(f"\nA first picture: {preview}")
    report(report=report_path(raw.name, request.settings.method), preview=preview)
    for synthesis, result in done:
        report_injected(synthesis.fold, len(result.staged))
    folds = [synthesis.fold.number for synthesis, _ in done] + [fold.number for fold in complete]
    audit_and_advise(raw, folds, request)


def record_painted(
    raw: RawDataset,
    done: list[tuple[Synthesis, SynthesisResult]],
    complete: list[Fold],
    seconds: dict[str, float],
    request: Request,
) -> None:
    """Writes the report before the cases are injected, so that an interruption between the two loses nothing of it.

    Until ``conclude``, or until the same command has been run again, it says that nothing was injected.
    """
    _add_rows(raw, done, complete, seconds, request, _INTERRUPTED)


def record_stopped(
    raw: RawDataset,
    synthesis: Synthesis,
    result: SynthesisResult,
    seconds: dict[str, float],
    request: Request,
    why: str,
) -> None:
    """Writes into the report that a fold was stopped before anything was injected, and why."""
    _add_rows(raw, [(synthesis, result)], [], seconds, request, why)


def _add_rows(
    raw: RawDataset,
    done: list[tuple[Synthesis, SynthesisResult]],
    complete: list[Fold],
    seconds: dict[str, float],
    request: Request,
    stopped: str = "",
) -> None:
    """Writes folds into the report in place of what it says of them; ``stopped`` says why nothing was injected."""
    rows = [_row(synthesis, result, seconds) for synthesis, result in done]
    rows += [{"fold": fold.number, **_without_cases(fold)} for fold in complete]
    if stopped:
        rows = [row | {"injected": 0, "stopped": stopped} for row in rows]
    fold = next(fold for fold in (*(synthesis.fold for synthesis, _ in done), *complete))
    about = {
        "settings": request.settings.as_dict(),
        "configuration": request.configuration,
        "device": request.device,
        "patients": raw.reading.as_dict(),
        "images": suspicion(fold.raw, fold.cache, shown=stopped != _INTERRUPTED),
    }
    add_rows(raw.name, request.settings.method, rows, about)


def _row(synthesis: Synthesis, result: SynthesisResult, seconds: dict[str, float]) -> dict:
    """A fold's row of the report."""
    plan, relations = synthesis.fold.plan, synthesis.fold.relations
    return {
        "fold": synthesis.fold.number,
        "before": plan.before,
        "after": plan.after,
        "notes": plan.notes,
        "planned": len(plan.cases),
        "injected": len(result.staged),
        "repainted": result.repainted,
        "dropped": result.dropped,
        "quality": result.quality,
        "quality_of_all": result.quality_of_all,
        "verdicts": result.verdicts,
        "likeness": plan.likeness,
        "memorisation": result.memorisation,
        **({"selection": result.selection} if result.selection else {}),
        **({"placebo": result.placebo} if result.placebo else {}),
        **({"channels": relations.as_record()} if relations else {}),
        "seconds_of_all_folds_together": seconds,
    }


def audit_and_advise(raw: RawDataset, folds: list[int | str], request: Request) -> None:
    """Audits the dataset from its files, then prints the next commands.

    Raises:
        Failed: the audit found a leak.
    """
    with stage("auditing"):
        found = audit(raw.name, deep=True, untouched=request.dry_run)
    leaks = [problem.text for problem in found.problems]
    report(dataset=raw.name, leaks=found.leaks, problems=leaks)
    if leaks:
        raise Failed(f"the audit found {'; '.join(leaks[:3])}; difflung_audit -d {quoted(raw.name)} lists all problems")
    say(f"Audit: no synthetic case of {raw.name} was made from a validation case or patient.")
    if others := others_with_id(raw.name):
        warn(
            f"nnUNetv2_plan_and_preprocess takes nothing but an id, and that of {raw.name} also means "
            f"{', '.join(others)}, in one of nnU-Net's three folders; give the other dataset another id, or move it to "
            f"another place"
        )
    commands = next_commands(raw, request.configuration, request.settings.method, folds, request.device)
    report(next=[line.strip() for line in commands.splitlines()[1:-1]])
    say(commands)


def run_entry(synthesis: Synthesis, result: SynthesisResult) -> dict:
    """The manifest's entry for a run."""
    fold, generator = synthesis.fold, synthesis.generator
    summary = {
        "planned": len(fold.plan.cases),
        "injected": len(result.staged),
        "dropped": sorted(result.dropped),
        "quality": result.quality,
        "verdicts": result.verdicts,
        "memorisation": result.memorisation,
        **({"selection": result.selection} if result.selection else {}),
        **({"placebo": result.placebo} if result.placebo else {}),
    }
    return _entry(fold, generator.hash or None, generator.training_cases, summary)


def run_without_cases(fold: Fold) -> dict:
    """The manifest's entry for a fold to which nothing had to be added: no generator, no synthetic cases."""
    summary = {"planned": 0, "injected": 0, "dropped": [], "quality": {}, "verdicts": {}, "memorisation": {}}
    return _entry(fold, None, fold.data.training_cases, summary)


def _entry(fold: Fold, generator: str | None, training_cases: Sequence[str], summary: dict) -> dict:
    left_out = [name for name, lesions in fold.lesions.items() if lesions and name not in fold.plan.targets]
    return {
        "method": fold.method.name,
        "fold": fold.number,
        "settings": fold.settings.as_dict(),
        "generator": {
            "hash": generator,
            "folder": os.path.relpath(fold.folder, nnunet_folder(NNUNET_RESULTS)),
            "training_cases": list(training_cases),
        },
        "summary": {
            **summary,
            "targets": fold.plan.targets,
            **({"left_out": left_out} if left_out else {}),
            "voxels_before": fold.plan.before,
            "voxels_planned": fold.plan.after,
        },
        **({"channels": fold.relations.as_record()} if fold.relations else {}),
    }


def _without_cases(fold: Fold) -> dict:
    """A fold's row of the report where nothing had to be added."""
    return {
        "before": fold.plan.before,
        "after": fold.plan.after,
        "notes": fold.plan.notes,
        "planned": 0,
        "injected": 0,
        "repainted": 0,
        "dropped": {},
        "quality": {},
        "quality_of_all": {},
        "memorisation": {},
    }
