"""How many synthetic masks a second are planned on one core, and does that depend on the number of cases?

The reference places lesions by trial and error, as copy-paste augmentations do: draw a place in the slice, take it if
the lesion lies in normal lung, else draw again. Both plan from the same lesions for the same hosts and share rule. The
phantom's label maps are mirrored and shifted for 2, 4 and 8 times the cases. Plans differ in how hard their lesions are
to place, so the rows also have the number of searches for a place (``searches a slice``) and the voxels of their masks.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from unittest.mock import patch

import numpy as np

from benchmarks.setting import ROLES, facts_of, phantom_labels
from benchmarks.timing import alternating, parser, row, seconds, write_rows
from nnunet_difflung.config import BalanceConfig
from nnunet_difflung.lesions.balance import collect_lesions, make_plan
from nnunet_difflung.lesions.masks import draw_transform, warp
from nnunet_difflung.lesions.placement import find_place
from nnunet_difflung.lesions.plan import Plan

CONFIG = BalanceConfig(target_share={"emphysema": 0.06, "ILD": 0.25})
TRIES = 1000


def trial_and_error(
    label: np.ndarray, mask: np.ndarray, value: int, rng: np.random.Generator, inside: float = 0.9, tries: int = TRIES
) -> int:
    """Pastes a lesion into normal lung of ``label`` (in place) at the first drawn place that holds it.

    Returns:
        Voxels changed; 0 if no drawn place did.
    """
    room = np.array(label.shape) - mask.shape
    if mask.size == 0 or (room < 0).any():
        return 0
    for _ in range(tries):
        start = rng.integers(0, room + 1)
        window = label[tuple(slice(a, a + n) for a, n in zip(start, mask.shape, strict=True))]
        changed = mask & (window == 1)
        if changed.sum() >= inside * mask.sum():
            window[changed] = value
            return int(changed.sum())
    return 0


def reference_plan(labels: dict[str, np.ndarray], lesions: dict, cases: int, per_case: int, share: dict) -> int:
    """Fills ``cases`` hosts with ``per_case`` lesions each; returns the voxels pasted."""
    rng, hosts, pasted = np.random.default_rng(0), list(labels), 0
    names = list(share)
    odds = np.array([share[name] for name in names]) / sum(share.values())
    for number in range(cases):
        label = labels[hosts[number % len(hosts)]].copy()
        for _ in range(per_case):
            name = names[rng.choice(len(names), p=odds)]
            lesion = lesions[name][rng.integers(len(lesions[name]))]
            pasted += trial_and_error(label, warp(lesion.mask, draw_transform(rng)).mask, ROLES.values[name], rng)
    return pasted


def searches(plan: Callable[[], Plan]) -> list[int]:
    """Voxels of the mask in each search for a place while a plan is made."""
    found: list[int] = []

    def counted(mask: np.ndarray, *others):
        found.append(int(mask.sum()))
        return find_place(mask, *others)

    with patch("nnunet_difflung.lesions.balance.find_place", counted):
        plan()
    return found


def multiplied(labels: dict[str, np.ndarray], factor: int) -> dict[str, np.ndarray]:
    """The label maps and ``factor`` − 1 shifted, alternately mirrored versions of each."""
    return {
        f"{i}_{k}": np.roll(label[..., ::-1] if k % 2 else label, 3 * k, 2).copy()
        for i, label in labels.items()
        for k in range(factor)
    }


def main() -> None:
    """Entry of the command line."""
    p = parser(__doc__, 512)
    p.add_argument("--patients", type=int, default=12, help="of the phantom (default: %(default)s)")
    p.add_argument("--slices", type=int, default=4, help="of each patient (default: %(default)s)")
    o = p.parse_args()
    base, rows, rates = phantom_labels(o.size, o.patients, o.slices), [], {}
    for factor in (1, 2, 4, 8):
        labels = multiplied(base, factor)
        facts = facts_of(labels)
        collecting = seconds(
            lambda labels=labels, facts=facts: collect_lesions(list(labels), facts, ROLES, labels.__getitem__)
        )
        lesions = collect_lesions(list(labels), facts, ROLES, labels.__getitem__)

        def ours(labels=labels, facts=facts, lesions=lesions):
            return make_plan(list(facts.values()), lesions, ROLES, CONFIG, 0, labels.__getitem__)

        plan = ours()
        pasted = [op for case in plan.cases for op in case.operations if not op.around]
        operations = len(pasted)
        counted = {name: sum(op.pathology == name for op in pasted) for name in plan.targets}

        def reference(labels=labels, lesions=lesions, plan=plan, operations=operations, counted=counted):
            return reference_plan(labels, lesions, len(plan.cases), round(operations / len(plan.cases)), counted)

        sought = searches(ours)
        mine, other = alternating(ours, reference, o.repeats)
        rates[factor] = plan.slices / median(mine)
        after = {name: plan.after[name] / sum(plan.after.values()) for name in plan.targets}
        quality = {
            "share of lung after": after,
            "targets": plan.targets,
            "lesions pasted": operations,
            "voxels pasted, ours": sum(op.voxels for case in plan.cases for op in case.operations),
            "voxels pasted, reference": reference(),
            "searches a slice": len(sought) / plan.slices,
            "voxels a search": sum(sought) / len(sought),
        }
        rows.append(
            row(
                f"mask planning, {o.size}², {factor}× cases",
                [plan.slices / t for t in mine],
                [plan.slices / t for t in other],
                "slices/s",
                "cpu",
                quality,
                cases=len(labels),
                planned=plan.slices,
                lesion_extraction_slices_per_s=len(labels) / collecting,
            )
        )
    rows[-1]["meta"]["rate at 8× over rate at 4×"] = rates[8] / rates[4]
    write_rows(o.output, rows)


if __name__ == "__main__":
    main()
