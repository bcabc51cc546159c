"""What ``difflung_augment`` reports to scripts: plans, estimates, painted cases (docs/scripting.md lists the keys)."""

from __future__ import annotations

from typing import Any

from nnunet_difflung.lesions.plan import shares
from nnunet_difflung.painting.cases import SynthesisResult
from nnunet_difflung.preparing.fold import Fold
from nnunet_difflung.runtime.messages import report, reported
from nnunet_difflung.telling.quality import faults


def report_plan(fold: Fold) -> None:
    """Reports a fold's class shares and plan."""
    raw, plan = fold.raw, fold.plan
    before, after = shares(plan.before), shares(plan.after)
    classes = {
        name: {
            "share": before[name],
            "target": plan.targets.get(name),
            "planned_share": after[name],
            "patients": len({raw.patients[i] for i, case in fold.facts.items() if case.voxels(name)}),
            "lesions": len(fold.lesions[name]) if name in fold.lesions else None,
        }
        for name in raw.roles.lung
    }
    _add(
        fold,
        training_cases=len(fold.data.training_cases),
        training_patients=len({raw.patients[i] for i in fold.data.training_cases}),
        slices_with_lung=sum(case.lung_slices(raw.roles) for case in fold.facts.values()),
        classes=classes,
        planned=len(plan.cases),
        planned_placebo=len(plan.placebos),
        planned_slices=plan.slices,
        most_slices=plan.max_slices,
        planned_lesions=sum(not op.around for case in plan.with_lesions for op in case.operations),
        notes=list(plan.notes),
    )


def report_result(fold: Fold, result: SynthesisResult) -> None:
    """Reports what became of a fold's planned cases; none of them is in the dataset yet."""
    _add(
        fold,
        painted=len(result.staged) + len(result.dropped),
        kept=len(result.staged),
        injected=0,
        repainted=result.repainted,
        dropped={name: faults(measured, fold.raw.channels) for name, measured in sorted(result.dropped.items())},
        verdicts=result.verdicts,
    )


def report_injected(fold: Fold, number: int) -> None:
    """Reports that a fold's cases have been added to the dataset."""
    _add(fold, injected=number)


def report_estimate(training: float, painting: float, disk: int, cache: int, device: str) -> None:
    """Reports what the folds of a dry run would take.

    Args:
        training: seconds.
        painting: seconds.
        disk: bytes, with those of the cache.
        cache: bytes of cases that are not cached yet.
        device: for which the seconds are.
    """
    report(
        estimate={
            "device": device,
            "training_seconds": training,
            "painting_seconds": painting,
            "bytes": disk,
            "cache_bytes": cache,
        }
    )


def _add(fold: Fold, **content: Any) -> None:
    folds: list[dict] = reported("folds", [])
    row = next((row for row in folds if row["fold"] == fold.number), None)
    if row is None:
        folds = [*folds, row := {"fold": fold.number}]
    row |= content
    report(folds=folds)
