"""What the fold's segmenter knows and which candidates were kept, in sentences."""

from __future__ import annotations

from nnunet_difflung.runtime.wording import duration

_RULES = {
    "hard": "the one that the segmenter recognises least",
    "easy": "the one that the segmenter recognises best",
    "random": "one at random",
}


def describe_selection(selection: dict) -> list[str]:
    """Lines about a fold's segmenter and its choices.

    Args:
        selection: result of ``judging.selection.summarise``; empty if each case is painted once.
    """
    if not selection:
        return []
    lines = [
        f"  selection: {selection['painted']} candidates painted, {selection['below_floor']} not recognised by the "
        f"segmenter and rejected; of the others {_RULES[selection['rule']]} was kept"
    ]
    lines += [_of_class(name, row) for name, row in selection["known"].items()]
    if selection["chosen_from"]:
        lines.append(
            f"  mean score of the chosen {selection['score_of_chosen']:.2f}, of all candidates "
            f"{selection['score_of_all']:.2f} ({selection['chosen_from']} cases with a choice)"
        )
    return lines


def describe_cost(seconds: dict[str, float]) -> list[str]:
    """A line on what selection took, from the seconds of a run's stages; none without candidates."""
    if "segmenter" not in seconds:
        return []
    return [
        f"Selection took {duration(seconds['segmenter'])} to train the segmenters (once for each fold) and "
        f"{duration(seconds['scoring'])} to judge candidates, besides painting them."
    ]


def _of_class(name: str, row: dict) -> str:
    if not row["slices"]:
        return (
            f"  {name:<20}not known to the segmenter: no real lesion of an unseen patient to measure it on; not judged"
        )
    measured = (
        f"recall of unseen real lesions {row['recall']:.2f}, in normal lung {row['outside']:.2f} "
        f"({row['slices']} slices, {row['patients']} patients)"
    )
    if not row["known"]:
        return (
            f"  {name:<20}{measured}: the segmenter does not know it well enough; no candidate is rejected or preferred"
        )
    return f"  {name:<20}{measured}; rejected below {row['floor']:.2f}, where {row['below']:.0%} of the real ones lie"


def not_recognised(measured: dict) -> list[str]:
    """The classes that the segmenter did not recognise in a case that was dropped, one sentence each."""
    return [
        f"{name} is not recognised by the segmenter (score {row['score']:.2f}, at least {row['floor']:.2f})"
        for name, row in measured.get("recognition", {}).items()
        if row["floor"] is not None and row["score"] < row["floor"]
    ]
