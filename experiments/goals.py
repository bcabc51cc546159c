"""The table of goals in docs/results.md: what was to be reached on real CT, what was measured, and whether that is it.

The goals were set before anything was measured.
"""

from __future__ import annotations

from statistics import stdev

from experiments.bench.plot import EARLIER
from nnunet_difflung.comparison.table2 import shown

_MEAN_ONLY = "in the mean only"
_LEADS = {"reference": 0.10, "oversampling": 0.05, "copy_paste": 0.03}  # Dice of the rare class
_LOSS = 0.005  # Dice of other classes
_FALSE_VOXELS = 1.1  # times the reference's
_STEP = 1.1  # times the surroundings' own
_CORRELATION = 0.05
_AUC_OF_BORDERS = 0.55
_TEXTURE = ("autocorrelation_1", "autocorrelation_2", "autocorrelation_4", "below", "above")
_PLACES = ("front_back", "sideways", "depth", "contact", "share_of_lung", "count")
_FROM_CHANCE = 0.1  # of an AUC
_MASKS = {
    "Dataset801_MedSegCOVID19": "MedSeg, slices",
    "Dataset807_LIDCNodules": "LIDC, slices",
    "Dataset811_MedSegVolumes": "MedSeg, volumes",
}


def goals_table(bench: dict, regions: dict, masks: dict, method: str = "difflung") -> str:
    """Each goal with what was measured.

    Args:
        bench: as ``experiments.bench`` writes it.
        regions: of ground glass on LIDC, as ``experiments.regions`` writes it.
        masks: as ``experiments.mask_likeness`` writes it.
        method: what the goals are about.
    """
    lines = ["| goal | measured | reached |", "|---|---|---|"]
    rows = [*_of_bench(bench, method), *_of_regions(regions, method), *_of_masks(masks)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _of_bench(content: dict, method: str) -> list[tuple[str, str, str]]:
    """Each goal of the bench, measured with each number of source patients."""
    rare, numbers = content["meta"]["rare"], content["numbers"]
    differences = {number: of[method]["differences"] for number, of in numbers.items()}
    rows = []
    for opponent, least in _LEADS.items():
        found = [of[opponent][rare]["dice"]["diff"] for of in differences.values()]
        verdicts = [_reached(d["mean"] >= least, d["ci95"] is not None and d["ci95"][0] > 0) for d in found]
        goal = f"Dice of {_words(rare)} at least {least:.2f} above `{opponent}`, interval above 0"
        rows.append((goal, [shown(d, 3) for d in found], verdicts))
    for name in (name for name in next(iter(numbers.values()))[method]["figures"] if name != rare):
        found = [of["reference"][name]["dice"]["diff"] for of in differences.values()]
        verdicts = [_reached(d["mean"] >= -_LOSS, d["ci95"] is not None and d["ci95"][0] >= -_LOSS) for d in found]
        goal = f"Dice of {_words(name)} at most {_LOSS} below `reference`"
        rows.append((goal, [shown(d, 4) for d in found], verdicts))
    ratios = [of["reference"][rare]["false_voxels"]["ratio"] for of in differences.values()]
    goal = f"false voxels at most {_FALSE_VOXELS} times those of `reference`"
    rows.append((goal, [f"{ratio:.1f} times" for ratio in ratios], [_reached(r <= _FALSE_VOXELS) for r in ratios]))
    made = content.get("made", {})
    earlier = [f" ({EARLIER})" if not made.get(n, {}).get("rows_kept", True) else "" for n in numbers]
    counts = [f"{number} patients{of}" for number, of in zip(numbers, earlier, strict=True)]
    return [
        (f"LIDC: {goal}", "; ".join(map(": ".join, zip(counts, measured, strict=True))), " / ".join(verdicts))
        for goal, measured, verdicts in rows
    ]


def _of_regions(content: dict, method: str) -> list[tuple[str, str, str]]:
    real, painted = (content["methods"][name] for name in ("real", method))
    data = f"{_words(content['meta']['class'])} painted back into LIDC"
    to_host, of_real = painted["seam_host"]["mean"], real["seam_host"]["mean"]
    to_real, correlation = painted["seam_edge"]["mean"], painted["correlation_edge"]["to_real"]
    inside = correlation["ci95"][0] >= -_CORRELATION and correlation["ci95"][1] <= _CORRELATION
    parts = _in_spreads(content, method)
    texture = ", ".join(f"{part:+.2f}" for part in parts)
    return [
        (
            f"{data}: step across the edge at most {_STEP} times the host's own",
            f"{to_host:.2f} times (real lesions: {of_real:.2f}; {to_real:.2f} times that of real lesions)",
            _reached(to_host <= _STEP),
        ),
        (
            f"{data}: correlation across the edge within {_CORRELATION} of real lesions'",
            shown(correlation, 3),
            _reached(abs(correlation["mean"]) <= _CORRELATION, inside),
        ),
        (
            f"{data}: a classifier that looks for the borders, AUC at most {_AUC_OF_BORDERS}",
            f"{painted['auc']:.2f}",
            _reached(painted["auc"] <= _AUC_OF_BORDERS),
        ),
        (
            f"{data}: autocorrelation at 1, 2 and 4 pixels and shares of voxels below and above thresholds within the "
            f"spread of real patients",
            f"{texture} of their standard deviations",
            _reached(all(abs(part) <= 1 for part in parts)),
        ),
    ]


def _in_spreads(content: dict, method: str) -> list[float]:
    """Difference of the mean from that of real lesions, in standard deviations of real patients, of each figure."""
    parts = []
    for figure in _TEXTURE:
        spread = stdev(row[figure] for row in content["per_patient"]["real"] if row[figure] is not None)
        parts.append(content["methods"][method][figure]["to_real"]["mean"] / spread)
    return parts


def _of_masks(content: dict) -> list[tuple[str, str, str]]:
    rows = []
    for dataset, data in _MASKS.items():
        found = [r for r in content[dataset]["summary"] if r["arm"] == "alike" and r["figure"] in _PLACES]
        far = [r for r in found if abs(r["auc"] - 0.5) > _FROM_CHANCE]
        told = ", ".join(f"{_words(r['figure'])} of {_words(r['class'])} {r['auc']:.2f}" for r in far)
        goal = f"masks, {data}: AUC of place, pleural contact, share of lung and number within {_FROM_CHANCE} of 0.5"
        rows.append(
            (goal, f"{len(found) - len(far)} of {len(found)}" + (f"; {told}" if far else ""), _reached(not far))
        )
    return rows


def _reached(mean: bool, certain: bool = True) -> str:
    if not mean:
        return "no"
    return "yes" if certain else _MEAN_ONLY


def _words(name: str) -> str:
    return name.replace("_", " ")
