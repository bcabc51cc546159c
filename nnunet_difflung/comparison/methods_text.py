"""A paragraph for a manuscript that says how a comparison was made, from the content of its JSON file."""

from __future__ import annotations

from pathlib import Path

from nnunet_difflung.comparison.lesions import MIN_VOLUME, MIN_VOXELS, OVERLAP
from nnunet_difflung.comparison.trainings import ARMS
from nnunet_difflung.methods import METHODS
from nnunet_difflung.runtime.wording import counted

_OF_ARMS = {
    "reference": "real cases alone",
    "oversampling": "real cases alone, half of the patches centred on a pathology, each pathology alike",
    "nnUNetTrainer": "every case in the fold's training list, nnU-Net's own optimizer and schedule",
}
_POLY = "_poly"


def explained(arm: str) -> str:
    """What an arm was trained with."""
    base = arm.removesuffix(_POLY)
    text = _OF_ARMS.get(base) or f"real cases, and synthetic ones by {METHODS[base].explanation}"
    return f"{text}; nnU-Net's own optimizer and schedule" if arm.endswith(_POLY) else text


def scored(meta: dict) -> str:
    """Which cases were scored."""
    if meta["scored"] == "validation":
        return "the validation patients of each fold"
    folder = Path(meta["scored"].removeprefix("predictions ")).name
    return f"cases that the networks were not trained on (predictions in {folder})"


def methods_paragraph(table: dict) -> str:
    """The paragraph: arms, folds, repetitions, length of the trainings, what was scored, and the statistics."""
    meta, arms = table["meta"], {arm: rows for arm, rows in table.items() if arm != "meta"}
    versions = meta["versions"]
    length = f"{meta['iterations']:,} iterations" if meta.get("iterations") else f"length: {meta['length']}"
    described = "; ".join(f"{arm} ({ARMS[arm]}: {explained(arm)})" for arm in arms)
    patients, cases = counted(meta["patients"], "patient"), counted(meta["cases"], "case")
    sentences = [
        f"Trainings of nnU-Net v2 (nnunetv2 {versions['nnunetv2']}, configuration {meta['configuration']}, plans "
        f"{meta['plans']}, {length}) of {counted(len(arms), 'arm')} were compared with nnunet_difflung "
        f"{versions['nnunet_difflung']}: {described}.",
        _trainings(meta),
        *_doses(meta),
        f"Scored were {scored(meta)}: {patients}, {cases}, all real.",
        "Dice was computed over all voxels of a patient, for the patients whose reference segmentation has the class, "
        f"and averaged over patients (repetitions of a patient first). Differences to {meta['reference']} are paired "
        "by patient.",
        *_statistics(arms, meta["reference"]),
        "False voxels are those predicted in patients without the class.",
        *_segmentation_figures(arms, meta),
    ]
    return " ".join(sentences)


def _trainings(meta: dict) -> str:
    folds, repetitions = list(map(str, meta["folds"])), len(meta["seeds"])
    where = f"{'folds' if len(folds) > 1 else 'fold'} {', '.join(folds)}"
    often = f"{repetitions} times, with different random seeds," if repetitions > 1 else "once"
    alike = ", with the same plans, batch size and number of iterations" if meta.get("iterations") else ""
    return f"Each arm was trained {often} on {where}{alike}."


def _doses(meta: dict) -> list[str]:
    """How arms drew their synthetic cases, where it was not as nnU-Net draws all cases."""
    doses = {arm: dose for arm, dose in meta.get("doses", {}).items() if not dose.endswith("=cases")}
    told = {arm: [part.partition("=")[2] for part in dose.split()] for arm, dose in doses.items()}
    return [f"Of the patches of {arm}, an expected share of {t[0]} was synthetic ({t[-1]})." for arm, t in told.items()]


def _statistics(arms: dict[str, dict], reference: str) -> list[str]:
    rows = [row for arm, classes in arms.items() if arm != reference for row in classes.values()]
    if not rows:
        return []
    differences = [row["diff_to_reference"] for row in rows]
    methods = list(dict.fromkeys(d["method"] for d in differences if d["method"]))
    why = list(dict.fromkeys(d["no_interval"] for d in differences if d["no_interval"]))
    sentences = [f"95 % intervals, for new patients and new trainings: {'; '.join(methods)}."] if methods else []
    if why:
        where = "for some classes or arms " if methods else ""
        sentences.append(f"No interval is given {where}where {'; or '.join(why)}.")
    if any((d.get("permutation") or {}).get("patients") for d in differences):
        sentences.append(
            "p values: sign-flip permutation tests over patients, adjusted by Holm's method for all arms and classes; "
            "they ask whether these trainings are exchangeable."
        )
    return sentences


def _segmentation_figures(arms: dict[str, dict], meta: dict) -> list[str]:
    present = {figure for classes in arms.values() for row in classes.values() for figure in row}
    sentences = []
    if "lesion_sensitivity" in present:
        sentences.append(
            f"Lesions are connected components of at least {MIN_VOXELS} voxels and {MIN_VOLUME:g} mm³; one is detected "
            f"if at least {OVERLAP:.0%} of its voxels are predicted, and a predicted one is false if less than "
            f"{OVERLAP:.0%} of its voxels lie in the reference segmentation."
        )
    if "nsd" in present:
        sentences.append(
            f"HD95 and the normalised surface Dice (tolerance {meta['tolerance_mm']:g} mm) were computed with MONAI "
            f"{meta['versions']['monai']}."
        )
    return sentences
