"""Which of several paintings of a case is kept: what the fold's own segmenter sees in them decides.

A painting in which it does not recognise a class at all, though it recognises real lesions of patients that it has not
seen, is not accepted. Of the accepted ones the hardest is kept. A class that it does not know is not judged.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.preparing.application import AppliedCase
from nnunet_difflung.segmenter.trained import Segmenters


@dataclass(frozen=True)
class Selection:
    """How the candidates of a fold's cases are judged.

    Attributes:
        segmenters: the fold's networks.
        patients: training case → patient.
        roles: of the labels.
        candidates: how often a case is painted.
        rule: ``hard``, ``easy`` or ``random``.
        scoring: seconds that this process took for each judgement.
    """

    segmenters: Segmenters
    patients: Mapping[str, str]
    roles: LabelRoles
    candidates: int
    rule: str
    scoring: list[float] = field(default_factory=list, repr=False, compare=False)

    def number_for(self, planned: PlannedCase) -> int:
        """How often a case is painted: once if nothing can be chosen, as it has no known class or is a placebo."""
        known = any(self.segmenters.knows(op.pathology) for op in planned.operations)
        return self.candidates if known and not planned.placebo else 1

    def recognition(self, applied: AppliedCase, image: np.ndarray) -> dict[str, dict]:
        """What the network that has not seen the host's patient sees of each class in the changed voxels.

        Args:
            applied: the case.
            image: (c, n, y, x) its painted slices.

        Returns:
            class → {voxels, score, outside, floor}; ``floor`` is None if the class is not known. Empty for a placebo,
            and if there was a single training patient, so that there is no network.
        """
        if applied.planned.placebo or not self.segmenters.parts:
            return {}
        begun, names = time.monotonic(), self.roles.pathologies
        regions = {name: applied.changed & (applied.new_label == self.roles.values[name]) for name in names}
        patient, normal = self.patients[applied.planned.host], self.roles.is_normal(applied.new_label)
        seen = self.segmenters.see(patient, image, regions, normal)
        self.scoring.append(time.monotonic() - begun)
        return {
            name: {
                "voxels": sight.voxels,
                "score": round(sight.score, 4),
                "outside": None if np.isnan(sight.outside) else round(sight.outside, 4),
                "floor": self.segmenters.knowledge[name].floor if self.segmenters.knows(name) else None,
            }
            for name, sight in seen.items()
        }

    def choose(self, planned: PlannedCase, attempt: int, scores: Sequence[float | None], open_to: Sequence[int]) -> int:
        """The number of the candidate that is kept.

        Args:
            planned: the case.
            attempt: number of the try.
            scores: of all candidates; None if no class of the case is known.
            open_to: numbers of the candidates that are accepted, at least one.
        """
        if self.rule == "random":
            return int(np.random.default_rng([planned.seed, attempt]).choice(open_to))
        sign = -1 if self.rule == "easy" else 1
        return min(open_to, key=lambda number: (sign * (scores[number] or 0.0), number))


def other_noise(planned: PlannedCase, candidate: int) -> PlannedCase:
    """A planned case with the noise of one of its candidates; that of the first is the case's own."""
    if candidate == 0:
        return planned
    return replace(planned, seed=int(np.random.default_rng([planned.seed, candidate]).integers(2**31)))


def recognised(measured: dict) -> bool:
    """Whether the segmenter recognises each class that it knows in a measured painting."""
    rows = measured.get("recognition", {}).values()
    return all(row["floor"] is None or row["score"] >= row["floor"] for row in rows)


def score_of(measured: dict) -> float | None:
    """Mean probability of the known classes over the voxels of a painting; None if none is known."""
    rows = [row for row in measured.get("recognition", {}).values() if row["floor"] is not None]
    if not rows:
        return None
    return round(float(np.average([row["score"] for row in rows], weights=[row["voxels"] for row in rows])), 4)


def chosen_of(
    selection: Selection, planned: PlannedCase, attempt: int, measured: Sequence[dict], accepted: Sequence[bool]
) -> tuple[int | None, dict]:
    """Chooses among a case's candidates.

    Args:
        selection: the rule and the segmenter.
        planned: the case.
        attempt: number of the try.
        measured: measurements of the candidates.
        accepted: which of them may be injected.

    Returns:
        The number of the chosen one, None if none is accepted; and its measurements (else the first one's) with an
        entry ``selection``: {candidates, chosen, score, scores, below_floor}.
    """
    scores = [score_of(row) for row in measured]
    open_to = [number for number, is_accepted in enumerate(accepted) if is_accepted]
    chosen = selection.choose(planned, attempt, scores, open_to) if open_to else None
    entry = {
        "candidates": len(measured),
        "chosen": chosen,
        "score": None if chosen is None else scores[chosen],
        "scores": scores,
        "below_floor": [number for number, row in enumerate(measured) if not recognised(row)],
    }
    return chosen, {**measured[chosen or 0], "selection": entry}


def summarise(selection: Selection, entries: Sequence[dict]) -> dict:
    """What the segmenter knows, and what selection did in all tries of a fold.

    Args:
        selection: the rule and the segmenter.
        entries: ``selection`` of each case and try.

    Returns:
        {candidates, rule, segmenter, known, painted, below_floor, chosen_from, score_of_chosen, score_of_all}; the two
        scores are means over the ``chosen_from`` cases for which one of several candidates was chosen, else None.
    """
    several = [row for row in entries if row["score"] is not None and row["candidates"] > 1]
    means = [float(np.mean(row["scores"])) for row in several]
    return {
        "candidates": selection.candidates,
        "rule": selection.rule,
        "segmenter": selection.segmenters.hash,
        "known": {name: asdict(row) for name, row in selection.segmenters.knowledge.items()},
        "painted": sum(row["candidates"] for row in entries),
        "below_floor": sum(len(row["below_floor"]) for row in entries),
        "chosen_from": len(several),
        "score_of_chosen": round(float(np.mean([row["score"] for row in several])), 4) if several else None,
        "score_of_all": round(float(np.mean(means)), 4) if several else None,
    }
