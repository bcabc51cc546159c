"""Which real cases new lesions are painted into: those whose other pathologies are like those of real cases.

Some pathologies come together and others do not. On COVID-19 CT consolidation lies within ground glass; in cut-outs
around lung nodules a solid nodule never lies beside one of ground glass. If hosts are drawn from all training cases,
whatever these hold, what lies beside a lesion tells a reader, or a segmentation, that it is painted.

So for each synthetic case a real case that has the class is drawn, the model, and a host is sought with which the
*finished* case holds the other pathologies as the model does: first the same ones, then about as much of the lung of
each. A pathology that will be painted into the host too, as the model has it, counts as present already. Of hosts that
are equally alike, those that were used least come first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.lesions.plan import Plan
from nnunet_difflung.meaning.labels import LabelRoles

MIN_HOST = 40  # voxels of normal lung that a host must have
_ALIKE = 0.5  # difference in ln(share) up to which two hosts are equally alike, and that one use more outweighs
_MOST_USES = 8  # uses that count as a pathology that should not be there, so that a few hosts do not serve all cases


@dataclass(frozen=True)
class Model:
    """A real case that a synthetic one is to be like, because it has a pathology."""

    pathology: str
    case: str


class Hosts:
    """The possible hosts of a fold, and how often each was used.

    Attributes:
        cases: the hosts.
    """

    def __init__(self, cases: Sequence[CaseFacts], roles: LabelRoles):
        self.cases, self.roles = list(cases), roles
        self._profiles = np.array([profile(case, roles) for case in cases]).reshape(len(cases), len(roles.pathologies))
        self._index = {case.identifier: index for index, case in enumerate(cases)}
        self._uses = np.zeros(len(cases), int)

    def use(self, case: CaseFacts) -> None:
        """Counts a use, or a case into which nothing could be painted, so that other hosts come next."""
        self._uses[self._index[case.identifier]] += 1

    def ranked(
        self, model: np.ndarray, names: Sequence[str], rng: np.random.Generator, painted: Sequence[str] = ()
    ) -> Iterator[CaseFacts]:
        """All hosts, the best one first; mostly the first ones are enough.

        Args:
            model: profile that the finished case should have.
            names: the pathologies of the profile that count.
            rng: decides between hosts that are equally good.
            painted: pathologies that a host without them gets as the model has them.
        """
        counted, filled = (np.isin(self.roles.pathologies, list(part)) for part in (names, painted))
        shares = np.where(filled & (self._profiles == 0), model, self._profiles)[:, counted]
        wrong = ((shares > 0) != (model[counted] > 0)).sum(1)
        both = (shares > 0) & (model[counted] > 0)
        away = np.abs(np.log(np.where(both, shares, 1.0)) - np.log(np.where(both, model[counted], 1.0))).sum(1)
        uses = self._uses
        order = np.lexsort((rng.permutation(len(uses)), away // _ALIKE + uses, wrong + uses // _MOST_USES))
        return (self.cases[index] for index in order)


def usable_hosts(cases: Sequence[CaseFacts], roles: LabelRoles) -> list[CaseFacts]:
    """The cases with enough normal lung to be hosts."""
    return [case for case in cases if sum(roles.normal_voxels(case.counts)) >= MIN_HOST]


def profile(case: CaseFacts, roles: LabelRoles) -> np.ndarray:
    """(pathologies,) share of a case's lung that each covers."""
    lung = sum(case.voxels(name) for name in roles.lung)
    return np.array([case.voxels(name) / max(1, lung) for name in roles.pathologies])


def note_unlike(plan: Plan, unlike: int) -> None:
    """Adds a note to the plan if most of its cases hold other pathologies than the real ones that they follow."""
    cases = len(plan.with_lesions)
    if 2 * unlike > cases:
        plan.notes.append(
            f"hosts: {unlike} of {cases} cases hold other pathologies beside their new lesions than real cases do, "
            "since too few training cases would be like those; plan fewer with --max-synthetic, or add training cases"
        )
