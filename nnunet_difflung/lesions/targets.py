"""Target shares of the pathologies, and what a plan says about those that it does not reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_difflung.config import BalanceConfig
from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.lesions.border import classes_on_border
from nnunet_difflung.lesions.masks import Lesion
from nnunet_difflung.lesions.plan import Plan, shares
from nnunet_difflung.meaning.label_names import is_fibrosis
from nnunet_difflung.meaning.labels import LabelRoles

_AT_LEAST = 1.25  # smallest target as a multiple of a class's share
_AT_MOST = 0.9  # of the lung
_NEARLY = 0.95  # of a class's share in the planned cases
NO_ROOM, TOO_DEEP = "no room", "too deep"  # why a pathology was given up


def target_shares(
    cases: Sequence[CaseFacts], lesions: Mapping[str, Sequence[Lesion]], roles: LabelRoles, config: BalanceConfig
) -> dict[str, float]:
    """Pathology → its target share, for the pathologies of which the training cases have lesions.

    Where places follow real lesions, a class on the lung's border has one only if it is given.
    """
    names = [name for name in roles.pathologies if lesions[name]]
    if config.placement == "real":
        border = classes_on_border(lesions)
        names = [name for name in names if name in config.target_share or name not in border]
    return {name: _target_share(name, cases, roles, config) for name in names}


def _target_share(name: str, cases: Sequence[CaseFacts], roles: LabelRoles, config: BalanceConfig) -> float:
    """The target share of a pathology in the lung of training cases.

    The multiple of its share is bounded by its share of the slices that hold it, since more could only be reached by
    fuller lungs than real ones; a class that is in nearly all slices is still to become more common by a quarter.
    """
    if name in config.target_share:
        return config.target_share[name]
    if config.fibrosis_share is not None and [name] == [other for other in roles.pathologies if is_fibrosis(other)]:
        return config.fibrosis_share
    if config.target_multiple is None:
        return config.default_share
    lung = held = present = 0
    for case in cases:
        of_slices = np.sum([case.counts[part] for part in roles.lung], axis=0)
        own = np.asarray(case.counts[name])
        lung, held, present = lung + of_slices.sum(), held + of_slices[own > 0].sum(), present + own.sum()
    share = present / max(1, lung)
    bound = max(present / max(1, held), _AT_LEAST * share)
    return float(min(config.target_multiple * share, bound, _AT_MOST))


def note_unmet(plan: Plan, config: BalanceConfig, given_up: Mapping[str, str]) -> None:
    """Adds a note to the plan for every target that it does not reach.

    Args:
        plan: the finished plan.
        config: its settings.
        given_up: pathologies of which no host took a lesion any more → ``NO_ROOM``; ``TOO_DEEP`` if lesions lie in more
            slices than might still be painted; empty if nearly all slices were used.
    """
    share, like_real = shares(plan.after), config.placement == "real"
    for name, target in plan.targets.items():
        if share[name] < 0.98 * target:
            reason = f"limited by --max-synthetic {plan.max_slices}"
            left = plan.max_slices - plan.slices
            as_real = "a synthetic case gets only as much of the class as a real case with it has"
            if given_up.get(name) == NO_ROOM:
                reason = "no further lesion fits into normal lung"
                if like_real:
                    reason = "no host has room for more where real lesions of the class lie"
            elif like_real and _is_approached(plan, name):
                reason = f"{as_real}, so more of them would hardly raise the share"
            elif given_up.get(name) == TOO_DEEP and left:
                reason += f", of which {left} are left, too few for a lesion"
            elif like_real and plan.max_slices:
                reason += f"; {as_real}"
            plan.notes.append(
                f"{name}: the plan reaches {share[name]:.1%} of lung; the target is {target:.1%} ({reason})"
            )


def _is_approached(plan: Plan, name: str) -> bool:
    """Whether a pathology's share is nearly that in the planned cases alone, above which no more of them raise it."""
    if not any(op.pathology == name for case in plan.cases for op in case.operations):
        return False
    planned = {each: plan.after[each] - plan.before[each] for each in plan.after}
    return shares(plan.after)[name] >= _NEARLY * shares(planned)[name]
