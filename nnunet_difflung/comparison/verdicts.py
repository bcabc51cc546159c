"""The verdicts of a comparison, from the content of its JSON file."""

from __future__ import annotations

import numpy as np

from nnunet_difflung.comparison.statistics import FOUND
from nnunet_difflung.comparison.table2 import shown
from nnunet_difflung.pages.blocks import Light, Lights, State
from nnunet_difflung.paths import dataset_id
from nnunet_difflung.runtime.wording import counted

RARE = 0.1  # of the voxels of all classes
LOSS = 0.02  # Dice; a larger fall of another class is pointed out, and an interval that does not rule it out
MORE_FALSE = 1.5  # times the reference's false voxels
_LEVEL = 0.05
_LISTED = 6


def arms_of(table: dict) -> dict[str, dict]:
    """Arm → class → figures."""
    return {arm: rows for arm, rows in table.items() if arm != "meta"}


def others(table: dict) -> list[str]:
    """The arms that are compared with the reference."""
    return [arm for arm in arms_of(table) if arm != table["meta"]["reference"]]


def shares(table: dict) -> dict[str, float]:
    """Class → its share of the voxels of all classes in the reference segmentations of the scored patients."""
    rows = table[table["meta"]["reference"]]
    first = table["meta"]["seeds"][0]
    voxels = {
        name: sum(row["tp"] + row["fn"] for row in of_class["rows"] if row["seed"] == first)
        for name, of_class in rows.items()
    }
    total = sum(voxels.values()) or 1
    return {name: number / total for name, number in voxels.items()}


def rare_classes(table: dict) -> list[str]:
    """The classes with less than a tenth of the voxels, the rarest first; the rarest one if there is no such class."""
    order = sorted(((share, name) for name, share in shares(table).items()), key=lambda pair: pair[0])
    present = [(share, name) for share, name in order if share] or order
    return [name for share, name in present if share < RARE] or [present[0][1]]


def verdicts(table: dict) -> Lights:
    """What a reader asks of a comparison before anything else."""
    rare = rare_classes(table)
    if not others(table):
        reference = table["meta"]["reference"]
        only = Light(
            "unknown", "Difference", f"{reference} is the only arm with finished trainings: nothing to compare"
        )
        return Lights([only, _size(table, rare), _leaks(table)])
    lights = [_dice(table, name) for name in rare]
    lights += [_missed(table, name) for name in rare]
    lights += [_false_voxels(table, name) for name in rare]
    common = [name for name in table[table["meta"]["reference"]] if name not in rare]
    lights += [_harm(table, common)] if common else []
    return Lights([*lights, _size(table, rare), _leaks(table)])


def _dice(table: dict, name: str) -> Light:
    reference = table["meta"]["reference"]
    base = table[reference][name]["dice"]
    title = f"Dice of {name}"
    if base["mean"] is None:
        return Light("unknown", title, f"no scored patient has {name}")
    differences = {arm: table[arm][name]["diff_to_reference"] for arm in others(table)}
    ends = {arm: d["ci95"] for arm, d in differences.items() if d["ci95"]}
    below = [arm for arm, (_, high) in ends.items() if high < 0]
    above = [arm for arm, (low, _) in ends.items() if low > 0]
    parts = [f"{arm} {table[arm][name]['dice']['mean']:.3f}, {shown(d, 3)}" for arm, d in differences.items()]
    more = f"; and {counted(len(parts) - _LISTED, 'arm')} more" if len(parts) > _LISTED else ""
    numbers = f"{reference} {base['mean']:.3f}; {'; '.join(parts[:_LISTED])}{more}"
    if not ends:
        return Light("unknown", title, f"no intervals, so the differences may be chance. {numbers}")
    told = [f"below 0: interval of {', '.join(below)}"] if below else []
    told += [f"above 0: interval of {', '.join(above)}"] if above else []
    state: State = "bad" if below else "good" if above else "look"
    return Light(state, title, f"{'; '.join(told) or 'all intervals include 0'}. {numbers}")


def missed_trainings(of_class: dict) -> tuple[int, int]:
    """Number of an arm's trainings whose mean Dice over their patients is at most 0.05, and number of trainings."""
    by_training: dict[tuple, list[float]] = {}
    for row in of_class["rows"]:
        if row["dice"] is not None:
            by_training.setdefault((row["seed"], row["fold"]), []).append(row["dice"])
    return sum(float(np.mean(values)) <= FOUND for values in by_training.values()), len(by_training)


def _missed(table: dict, name: str) -> Light:
    reference = table["meta"]["reference"]
    missed = {arm: missed_trainings(rows[name]) for arm, rows in arms_of(table).items()}
    title = f"Trainings that miss {name}"
    if not missed[reference][1]:
        return Light("unknown", title, f"no scored patient has {name}")
    text = "; ".join(f"{arm} {number} of {count}" for arm, (number, count) in missed.items() if number)
    if not text:
        return Light("good", title, f"none (a training misses a class if its mean Dice is at most {FOUND})")
    worse = any(number > missed[reference][0] for number, _ in missed.values())
    return Light("bad" if worse else "look", title, f"{text} (mean Dice at most {FOUND}); all other arms none")


def _false_voxels(table: dict, name: str) -> Light:
    reference = table["meta"]["reference"]
    base = table[reference][name]["false_positive_voxels"]
    title = f"False voxels of {name}"
    if base["mean"] is None:
        return Light("unknown", title, f"every scored patient has {name}, so there is none to mark it falsely in")
    state: State = "good"
    parts = []
    for arm in others(table):
        figure = table[arm][name]["false_positive_voxels"]
        more = figure["mean"] > base["mean"]
        test = (figure["diff_to_reference"].get("permutation") or {}).get("patients")
        if more and test and test["p_holm"] < _LEVEL:
            state = "bad"
        elif figure["mean"] > MORE_FALSE * base["mean"] and state == "good":
            state = "look"
        times = f" ({figure['mean'] / base['mean']:.1f} times)" if base["mean"] else ""
        parts.append(f"{arm} {figure['mean']:.3g}{times}")
    patients = counted(base["patients"], "patient")
    return Light(
        state, title, f"voxels a patient, {patients} without {name}: {reference} {base['mean']:.3g}; {'; '.join(parts)}"
    )


def _harm(table: dict, names: list[str]) -> Light:
    """Whether an arm is worse than the reference in a class that is not rare."""
    title = "Dice of the other classes"
    rows = [
        (table[arm][name]["diff_to_reference"], f"{name}, {arm}")
        for arm in others(table)
        for name in names
        if table[arm][name]["diff_to_reference"]["mean"] is not None
    ]
    if not rows:
        return Light("unknown", title, "no scored patient has them")
    proven = [row for row in rows if row[0]["ci95"] and row[0]["ci95"][1] < 0]
    fallen = [row for row in rows if row[0]["mean"] < -LOSS]
    unsure = [row for row in rows if row[0]["ci95"] and row[0]["ci95"][0] < -LOSS]
    without = [row for row in rows if not row[0]["ci95"]]
    if proven or fallen or not (unsure or without):
        state: State = "bad" if proven else "look" if fallen else "good"
        lowest, where = min(proven or rows, key=lambda row: row[0]["mean"])
        what = "an interval lies below 0: " if proven else "lowest difference: "
    elif unsure:
        state, what = "look", f"an interval does not rule out a loss of more than {LOSS}: "
        lowest, where = min(unsure, key=lambda row: row[0]["ci95"][0])
    else:
        state, what = "unknown", "no intervals, so the differences may be chance; lowest difference: "
        lowest, where = min(rows, key=lambda row: row[0]["mean"])
    return Light(state, title, f"{what}{where} {shown(lowest, 3)}")


def _size(table: dict, rare: list[str]) -> Light:
    """Whether there are enough patients and trainings for an interval and for p < 0.05."""
    meta, title = table["meta"], "Patients and trainings"
    trainings = len(meta["seeds"]) * len(meta["folds"])
    counts = f"{counted(meta['patients'], 'patient')}, {counted(trainings, 'training')} of each arm"
    faults = [] if trainings > 1 else ["one training does not show how much trainings vary"]
    for name in rare:
        for arm in others(table)[:1]:
            test = (table[arm][name]["diff_to_reference"].get("permutation") or {}).get("patients")
            if test is None or test["smallest_p"] > _LEVEL:
                patients = table[arm][name]["dice"]["patients"]
                least = f": p cannot be below {test['smallest_p']:.2g}" if test else ""
                faults.append(f"{counted(patients, 'patient')} with {name}{least}")
    if faults:
        return Light("look", title, f"{counts}; {'; '.join(faults)}")
    return Light("good", title, f"{counts}; enough for p below {_LEVEL}")


def _leaks(table: dict) -> Light:
    command = f"difflung_audit -d {dataset_id(table['meta']['dataset'])}"
    if unknown := table["meta"].get("weights_of_unknown_origin"):
        trainings = counted(len(unknown), "training")
        return Light(
            "look",
            "Leaks",
            f"{trainings} began with pretrained weights whose cases are not on record ({unknown[0]}); they may "
            f"include scored patients; what else may have leaked is checked by {command}",
        )
    return Light(
        "unknown",
        "Leaks",
        "no synthetic case is among the scored ones; whether a validation patient leaked into training is checked by "
        f"{command}, and by this package's trainers before they start",
    )
