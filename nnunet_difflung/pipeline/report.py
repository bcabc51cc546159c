"""The output of ``difflung_augment``: class tables, plans, results, report, audit, and the next commands."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from nnunet_difflung.audit.audit import audit
from nnunet_difflung.dataset.hu_check import channels_in_hu
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.errors import Failed
from nnunet_difflung.generator.batches import share_of_each
from nnunet_difflung.judging.memorisation import expected_share, is_suspicious
from nnunet_difflung.lesions.plan import shares
from nnunet_difflung.methods import METHODS
from nnunet_difflung.painting.cases import Synthesis, SynthesisResult
from nnunet_difflung.paths import NNUNET_RESULTS, dataset_id, nnunet_folder, others_with_id
from nnunet_difflung.pipeline.images import suspicion
from nnunet_difflung.pipeline.on_record import add_rows, report_path
from nnunet_difflung.pipeline.request import Request
from nnunet_difflung.preparing.fold import Fold
from nnunet_difflung.runtime.messages import report, say, warn
from nnunet_difflung.runtime.wording import collapsed, counted, quoted
from nnunet_difflung.telling.channels import describe_channels, set_by_rule
from nnunet_difflung.telling.likeness import describe_likeness, differing
from nnunet_difflung.telling.quality import describe_placebo, describe_quality, faults
from nnunet_difflung.telling.scripts import report_injected
from nnunet_difflung.telling.selection import describe_selection

_INTERRUPTED = "it was interrupted before its cases were in the dataset; run the same command again"


def describe_fold(fold: Fold) -> str:
    """Class table, deficits and plan of a fold."""
    raw, plan = fold.raw, fold.plan
    training = fold.data.training_cases
    before, after = shares(plan.before), shares(plan.after)
    patients = len({raw.patients[i] for i in training})
    slices = sum(case.lung_slices(raw.roles) for case in fold.facts.values())
    lines = [
        f"\nfold {fold.number}: {len(training)} training cases, {slices} slices with lung, {patients} patients",
        f"  {'class':<20}{'share of lung':>14}{'target':>9}{'planned':>9}{'patients':>10}{'lesions':>9}",
    ]
    for name in raw.roles.lung:
        target = plan.targets.get(name)
        holding = len({raw.patients[i] for i, case in fold.facts.items() if case.voxels(name)})
        lesions = len(fold.lesions[name]) if name in fold.lesions else ""
        lines.append(
            f"  {name:<20}{before[name]:>13.2%} {f'{target:.1%}' if target else '':>8}{after[name]:>9.2%}"
            f"{holding:>10}{lesions:>9}"
        )
    operations = sum(not op.around for case in plan.with_lesions for op in case.operations)
    slices = sum(len(case.slices) for case in plan.with_lesions)
    margins = f", and {plan.in_margins} above and below lesions" if plan.in_margins else ""
    lines.append(
        f"  plan: {counted(len(plan.with_lesions), 'synthetic case')}, {counted(slices, 'painted slice')} (at most "
        f"{plan.max_slices}{margins}), {counted(operations, 'pasted lesion')}"
    )
    if plan.placebos:
        lines.append(
            f"  placebo: {counted(len(plan.placebos), 'further case')}, "
            f"{counted(plan.slices - slices, 'painted slice')} on top of that bound: outlines of lesions, repainted as "
            f"the normal lung that they are"
        )
    lines += describe_likeness(plan.likeness)
    lines += describe_channels(fold.relations, raw.channels)
    lines += [f"  note: {note}" for note in collapsed([*plan.notes, *_lower_share(fold)])]
    return "\n".join(lines)


def _lower_share(fold: Fold) -> list[str]:
    """A line if there are so many pathologies that the generator draws less of each batch for each than was asked."""
    wanted = fold.settings.generator.balanced_share
    number = sum(any(case.voxels(name) for case in fold.facts.values()) for name in fold.raw.roles.pathologies)
    share = share_of_each(wanted, number)
    if share == wanted or not fold.method.generator:
        return []
    return [
        f"{share:.3g} of each batch of the generator's training is drawn for each of the {number} pathologies instead "
        f"of {wanted:g} (--balanced-share), since at least a tenth is drawn uniformly"
    ]


def describe_nothing_to_add(fold: Fold) -> str:
    """Why a fold gets no synthetic case, and what its training then is."""
    share, targets = shares(fold.plan.before), fold.plan.targets
    reason = "no synthetic case could be planned (see its notes)"
    if not targets:
        reason = "no pathology is to be painted (see its notes and the warnings)"
    elif all(share[name] >= target for name, target in targets.items()):
        reached = ", ".join(f"{name} {share[name]:.1%} (target {target:.1%})" for name, target in targets.items())
        name = max(targets, key=lambda name: targets[name] / max(share[name], 1e-9))
        more = quoted("--target-share", f"{name}={min(0.9, 2 * share[name]):.2g}")
        reason = f"every pathology has its target share of lung: {reached}; ask for more with, say, {more}"
    return (
        f"fold {fold.number}: nothing to add, {reason}. Its trainers train on the real cases alone, as the reference "
        f"does"
    )


def describe_result(fold: Fold, result: SynthesisResult) -> str:
    """The results of a fold: kept and dropped cases, and how their voxels compare with real voxels."""
    lines = [
        f"fold {fold.number}: {counted(len(result.staged), 'synthetic case')} kept, {len(result.dropped)} dropped, "
        f"{result.repainted} repainted"
    ]
    channels, unjudged = fold.raw.channels, set_by_rule(fold.relations)
    in_hu = channels_in_hu(fold.raw, [facts.judged for facts in fold.cache.facts.values()])
    lines += describe_selection(result.selection)
    lines += describe_quality(result.quality, result.verdicts, channels, unjudged, in_hu)
    lines += describe_placebo(result.placebo, channels, in_hu)
    lines += differing(fold.plan.likeness)
    lines += [
        _resemblance(name, row) for name, row in result.memorisation.items() if row["share_above_real_p99"] is not None
    ]
    dropped = sorted(result.dropped.items())
    lines += collapsed(f"  dropped {identifier}: {faults(measured, channels)}" for identifier, measured in dropped)
    return "\n".join(lines)


def _resemblance(name: str, row: dict) -> str:
    """How many cases of a class are close to a training slice, and how many are expected to be by chance."""
    suspicious = ", so this is more than chance explains" if is_suspicious(row) else ""
    return (
        f"  {name:<20}{row['share_above_real_p99']:.0%} of the synthetic cases resemble a training slice more than "
        f"99 % of {row['real_regions']} real lesions resemble another patient's slice ({expected_share(row):.0%} are "
        f"expected{suspicious}; mean correlation {row['mean']:.2f})"
    )


def next_commands(raw: RawDataset, configuration: str, method: str, folds: list[int | str], device: str) -> str:
    """nnU-Net's commands that use the synthetic cases."""
    dataset, fold = dataset_id(raw.name), folds[0]
    on = "" if device == "cuda" else f" -device {device}"
    trainer = METHODS[method].trainer
    images, labels = (
        quoted(raw.folder / part) if (raw.folder / part).is_dir() else instead
        for part, instead in (("imagesTs", "IMAGES"), ("labelsTs", "LABELS"))
    )
    configuration = quoted(configuration)
    model = f"-d {dataset} -c {configuration} -f {fold} -tr {trainer}{on}"
    return "\n".join(
        [
            "Next:",
            f"  nnUNetv2_plan_and_preprocess -d {dataset} -c {configuration}",
            f"  nnUNetv2_train {dataset} {configuration} {fold} -tr {trainer}{on}",
            f"  nnUNetv2_train {dataset} {configuration} {fold} -tr nnUNetTrainerDiffLungReference{on}",
            f"  nnUNetv2_predict -i {images} -o PREDICTIONS {model}",
            f"  nnUNetv2_evaluate_folder {labels} PREDICTIONS -djfile {quoted(raw.folder / 'dataset.json')} "
            f"-pfile {quoted(raw.preprocessed / 'nnUNetPlans.json')}",
            f"Undo: difflung_remove -d {dataset}",
        ]
    )


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
