"""What ``difflung_augment`` says: class tables, plans, results, next commands."""
from __future__ import annotations

from nnunet_difflung.fold import FoldWork
from nnunet_difflung.methods import METHODS
from nnunet_difflung.plan import shares
from nnunet_difflung.raw_dataset import RawDataset
from nnunet_difflung.staging import SynthesisResult


def describe_fold(work: FoldWork) -> str:
    """Class table, deficits and plan of a fold."""
    raw, plan = work.raw, work.plan
    training = raw.training_cases(work.fold)
    before, after = shares(plan.before), shares(plan.after)
    patients = len({raw.patients[i] for i in training})
    slices = sum(host.lung_slices for host in work.facts.values())
    lines = [f"\nfold {work.fold}: {len(training)} training cases, {slices} slices with lung, {patients} patients",
             f"  {'class':<20}{'share of lung':>14}{'target':>9}{'planned':>9}{'patients':>10}{'lesions':>9}"]
    for name in raw.roles.lung:
        target = plan.targets.get(name)
        holding = len({raw.patients[i] for i, host in work.facts.items() if host.voxels[name]})
        lesions = len(work.lesions[name]) if name in work.lesions else ""
        lines.append(f"  {name:<20}{before[name]:>13.2%} {f'{target:.1%}' if target else '':>8}{after[name]:>9.2%}"
                     f"{holding:>10}{lesions:>9}")
    operations = sum(len(case.operations) for case in plan.cases)
    lines.append(f"  plan: {len(plan.cases)} synthetic cases, {plan.slices} painted slices (at most "
                 f"{plan.max_slices}), {operations} pasted lesions")
    lines += [f"  note: {note}" for note in plan.notes]
    return "\n".join(lines)


def describe_result(work: FoldWork, result: SynthesisResult) -> str:
    """What was painted in a fold and how it compares with the real voxels."""
    lines = [f"fold {work.fold}: {len(result.staged)} cases painted, {len(result.dropped)} dropped, "
             f"{result.repainted} repainted"]
    for name, row in result.quality.items():
        lines.append(f"  {name:<20}bias {row['bias']:+8.1f}   Wasserstein distance {row['wasserstein']:7.1f}   "
                     f"{row['passing']} of {row['cases']} cases pass the gate")
    for name, row in result.memorisation.items():
        if row["share_above_real_p99"] is not None:
            lines.append(f"  {name:<20}{row['share_above_real_p99']:.0%} of cases are closer to a training slice than "
                         f"99 % of {row['real_regions']} real lesions are to other patients' (mean correlation "
                         f"{row['mean']:.2f})")
    lines += [f"  dropped {identifier}: {_faults(measured)}" for identifier, measured in sorted(result.dropped.items())]
    return "\n".join(lines)


def _faults(measured: dict) -> str:
    """Why a case was dropped."""
    faults = [f"{name} bias {row['bias']:+.0f} (at most {row['max_bias']:.0f}), distance {row['wasserstein']:.0f} (at "
              f"most {row['max_wasserstein']:.0f})" for name, row in measured["quality"].items() if not row["passes"]]
    faults += [f"{name} resembles {row['nearest_case']} (correlation {row['similarity']:.2f})"
               for name, row in measured["memorisation"].items() if row and row["above_real_p99"]]
    return ", ".join(faults)


def next_commands(raw: RawDataset, configuration: str, method: str, folds: list[int | str], device: str) -> str:
    """nnU-Net's commands that use the synthetic cases."""
    dataset, fold = int(raw.name[7:10]), folds[0]
    on = "" if device == "cuda" else f" -device {device}"
    trainer = METHODS[method].trainer
    model = f"-d {dataset} -c {configuration} -f {fold} -tr {trainer}{on}"
    return "\n".join([
        "Next:",
        f"  nnUNetv2_plan_and_preprocess -d {dataset} -c {configuration}",
        f"  nnUNetv2_train {dataset} {configuration} {fold} -tr {trainer}{on}",
        f"  nnUNetv2_train {dataset} {configuration} {fold} -tr nnUNetTrainerDiffLungReference{on}",
        f"  nnUNetv2_predict -i {raw.folder / 'imagesTs'} -o PREDICTIONS {model}",
        f"  nnUNetv2_evaluate_folder {raw.folder / 'labelsTs'} PREDICTIONS -djfile {raw.folder / 'dataset.json'} "
        f"-pfile {raw.preprocessed / 'nnUNetPlans.json'}",
        f"Undo: difflung_remove -d {dataset}"])


def duration(seconds: float) -> str:
    """A time that a person reads at a glance."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes that a person reads at a glance."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
