"""Class tables, plans and results of folds, for people."""

from __future__ import annotations

from nnunet_difflung.dataset.hu_check import channels_in_hu
from nnunet_difflung.generator.batches import share_of_each
from nnunet_difflung.judging.memorisation import expected_share, is_suspicious
from nnunet_difflung.lesions.plan import shares
from nnunet_difflung.painting.cases import SynthesisResult
from nnunet_difflung.preparing.fold import Fold
from nnunet_difflung.runtime.wording import collapsed, counted, quoted
from nnunet_difflung.telling.channels import describe_channels, set_by_rule
from nnunet_difflung.telling.likeness import describe_likeness, differing
from nnunet_difflung.telling.quality import describe_placebo, describe_quality, faults
from nnunet_difflung.telling.selection import describe_selection


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
