"""Target shares of the pathologies, and what a plan says about those that it does not reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnunet_difflung.config import BalanceConfig
from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.lesions.plan import Plan, shares
from nnunet_difflung.meaning.labels import LabelRoles


def target_share(name: str, cases: Sequence[CaseFacts], roles: LabelRoles, config: BalanceConfig) -> float:
    """The target share of a pathology.

    A multiple of its share is bounded by its share of the slices that hold it: more could only be reached by fuller
    lungs than real ones.
    """
    if name in config.target_share or config.target_multiple is None:
        return config.target_share.get(name, config.default_share)
    lung = held = present = 0
    for case in cases:
        of_slices = np.sum([case.counts[part] for part in roles.lung], axis=0)
        own = np.asarray(case.counts[name])
        lung, held, present = lung + of_slices.sum(), held + of_slices[own > 0].sum(), present + own.sum()
    return float(min(config.target_multiple * present / max(1, lung), present / max(1, held)))


def note_unmet(plan: Plan, config: BalanceConfig, gave_up: bool) -> None:
    """Adds a note to the plan for every target that it does not reach.

    Args:
        plan: the finished plan.
        config: its settings.
        gave_up: whether planning stopped because no host took a lesion any more.
    """
    share, like_real = shares(plan.after), config.placement == "real"
    for name, target in plan.targets.items():
        if share[name] < 0.98 * target:
            reason = f"limited by --max-synthetic {plan.max_slices}"
            if gave_up and plan.slices < 0.9 * plan.max_slices:
                reason = "no further lesion fits into normal lung"
                if like_real:
                    reason = "no host has room for more where real lesions of the class lie"
            elif like_real and plan.max_slices:
                reason += "; a synthetic case gets only as much of the class as a real case with it has"
            plan.notes.append(
                f"{name}: the plan reaches {share[name]:.1%} of lung; the target is {target:.1%} ({reason})"
            )
