"""Table 1 by region: each method paints real lesions of validation patients back into their real surroundings.

    python -m experiments.regions -d 807 -f 0 1 --class ground_glass --methods cbmat copy_paste -o TABLE.json

Whole slices painted from masks, as in Table 1, say little about augmentation, which paints a region of a real slice.
Here the generator of a fold (train it with difflung_augment) paints each lesion of the fold's validation patients where
it is, with the level and texture of a training lesion drawn at random, and what it painted is compared with the
surroundings and with the very lesion. The row ``real`` holds the figures of the lesions themselves. A classifier that
is trained on some patients and tested on others tells painted from real patches on the borders (AUC; 0.5: it cannot).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from experiments.further import of_augment
from experiments.painted_back import OWN, REAL, about, generators_of, parser, settings_of
from experiments.region_painting import Painted, open_fold, painted_lesions
from experiments.region_tally import FIGURES, RegionTally
from experiments.shortcut_classifier import grouped_auc
from experiments.shortcut_patches import Patches, joined
from nnunet_difflung.comparison.compare import without_nan
from nnunet_difflung.comparison.intervals import summed_up, within_folds
from nnunet_difflung.dataset.cache import SliceCache, build_cache
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.dataset.reading import body_is_above_hu
from nnunet_difflung.errors import BadInput
from nnunet_difflung.evaluation.grey_levels import GREY_LEVELS
from nnunet_difflung.judging.seam import border_of
from nnunet_difflung.lesions.masks import Lesion
from nnunet_difflung.methods import METHODS
from nnunet_difflung.pages.markdown import table_lines
from nnunet_difflung.paths import NNUNET_RESULTS, cache_folder
from nnunet_difflung.runtime.files import write_bytes, write_json

PATCH = 13  # pixels of the classifier's patches
HU = "HU"
EACH = 4  # patches of a lesion's slice
STEPS = 400  # of the classifier
WIDTH = 2000.0  # HU; the window of CT, for PSNR and SSIM; of other images it is the range of their values
_TITLES = {
    "seam_outline": "step at the outline / real",
    "seam_edge": "step at the painted edge / real",
    "seam_host": "step at the painted edge / host's",
    "correlation_outline": "correlation across the outline",
    "correlation_edge": "across the edge",
    "autocorrelation_1": "autocorrelation, 1 px",
    "autocorrelation_2": "2 px",
    "autocorrelation_4": "4 px",
    "sd_ratio": "sd / real",
    "bias": "bias, UNIT",
    "wasserstein": "Wasserstein, UNIT",
    "sharpness": "sharpness / host",
    "vessels_go_on": "vessels that go on",
    "below": "below the 5th percentile",
    "above": "above the 95th",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
}


def scale(cache: SliceCache) -> tuple[str, float]:
    """Unit of a dataset's first channel, and the width of the values that PSNR and SSIM refer to."""
    if all(body_is_above_hu(facts.judged) for facts in cache.facts.values()):
        return HU, WIDTH
    ends = [(float(image.min()), float(image.max())) for image in (cache.image(i)[0] for i in cache.facts)]
    return GREY_LEVELS, max(high for _, high in ends) - min(low for low, _ in ends)


def percentiles(cache: SliceCache, lesions: Sequence[Lesion]) -> tuple[float, float]:
    """5th and 95th percentile of the voxels of training lesions."""
    voxels = [np.asarray(cache.image(part.case)[(0, *part.box)])[part.mask] for part in lesions]
    low, high = np.percentile(np.concatenate(voxels), (5, 95))
    return float(low), float(high)


def border_patches(painted: Painted, image: np.ndarray, number: int, rng: np.random.Generator) -> Patches:
    """Patches on the outline and on the edge of the painted region, at places that depend on the outlines alone."""
    centres = np.concatenate(
        [border_of(part, painted.normal).inside for part in (painted.lesion, painted.region | painted.lesion)]
    )
    centres = centres[rng.permutation(len(centres))[:EACH]]
    half = PATCH // 2
    padded, lung = (
        np.pad(part, half, mode="edge") for part in (image.astype(np.float32), painted.normal | painted.lesion)
    )
    windows = [(slice(y, y + PATCH), slice(x, x + PATCH)) for y, x in centres]
    return Patches(
        np.array([padded[None][(slice(None), *w)] for w in windows]).reshape(-1, 1, PATCH, PATCH),
        np.ones((len(windows), PATCH, PATCH), bool),
        np.array([lung[w] for w in windows], bool).reshape(-1, PATCH, PATCH),
        np.array([painted.patient] * len(windows)),
        np.array([str(number)] * len(windows)),
    )


def painters_of(o: argparse.Namespace) -> dict[str, tuple[str, str]]:
    """Row of the table → method and further options of ``difflung_augment``.

    Raises:
        BadInput: ``--also`` has another form, a row's name occurs twice, or options are not for ``--augment``.
    """
    of_augment("--augment", o.augment, *OWN)
    painters = {name: (name, o.augment) for name in o.methods}
    for text in o.also:
        name, equals, words = text.partition("=")
        method, _, options = words.strip().partition(" ")
        if not equals or method not in METHODS or name in {*painters, REAL}:
            raise BadInput(
                f"--also {text!r}; expected a new name, =, a method and options, as in 'wide=cbmat --margin 4'"
            )
        of_augment("--also", options, *(option for option in OWN if option != "--preset"))
        painters[name] = (method, f"{o.augment} {options}".strip())
    return painters


def measure(raw: RawDataset, cache: SliceCache, o: argparse.Namespace, width: float) -> tuple[dict, dict, dict]:
    """Row → (fold, patient) → figures; row → AUC of the classifier; and row → the figures of the real lesions.

    The latter depend on the painted region, whose margin not all methods and options have in common. The row ``real``
    is that of the first painter.
    """
    rows: dict[str, dict[tuple[int, str], dict]] = defaultdict(dict)
    reals: dict[str, dict[tuple[int, str], dict]] = defaultdict(dict)
    patches: dict[str, tuple[list[Patches], list[Patches]]] = defaultdict(lambda: ([], []))
    for number in o.f:
        for name, (method, options) in painters_of(o).items():
            fold = open_fold(raw, cache, number, settings_of(method, o.preset, options))
            thresholds = percentiles(cache, fold.lesions[o.pathology])
            tallies: dict[tuple[str, str], RegionTally] = defaultdict(lambda t=thresholds: RegionTally(width, t))
            for i, p in enumerate(painted_lesions(fold, o.pathology, o.device, o.seed)):
                for row, image in ((name, p.image), (REAL, p.real)):
                    tallies[row, p.patient].add(image, p.real, p.lesion, p.region, p.normal)
                for part, image in zip(patches[name], (p.real, p.image), strict=True):
                    part.append(border_patches(p, image, i, np.random.default_rng([o.seed, number, i])))
            for (row, patient), tally in tallies.items():
                target = rows[name] if row == name else reals[name]
                target[number, patient] = {"lesions": tally.lesions, **tally.row()}
            print(f"fold {number}: {name}, {len(tallies) // 2} patients", flush=True)
    aucs = {name: _auc(*pair, o.seed) for name, pair in patches.items()}
    return {REAL: next(iter(reals.values())), **rows}, aucs, dict(reals)


def _auc(real: list[Patches], painted: list[Patches], seed: int) -> float | None:
    try:
        return grouped_auc(joined(real), joined(painted), STEPS, seed)
    except BadInput as error:
        print(f"No classifier: {error}")
        return None


def summarised(rows: dict, aucs: dict[str, float | None], reals: dict | None = None) -> dict:
    """Row → figure → mean over patients, and the paired difference to the real lesions with a 95 % interval.

    Args:
        rows: see ``measure``.
        aucs: see ``measure``.
        reals: see ``measure``; None: those of the row ``real`` for all.
    """
    table: dict = {}
    for name, of_patients in rows.items():
        table[name] = {"patients": len(of_patients), "lesions": sum(row["lesions"] for row in of_patients.values())}
        table[name] |= {"auc": aucs.get(name)}
        for figure in FIGURES:
            keys = [key for key in of_patients if np.isfinite(of_patients[key][figure])]
            mean = float(np.mean([of_patients[key][figure] for key in keys])) if keys else None
            table[name][figure] = {
                "mean": mean,
                "to_real": None if name == REAL else _to_real(of_patients, (reals or {}).get(name, rows[REAL]), figure),
            }
    return table


def _to_real(painted: dict, real: dict, figure: str) -> dict | None:
    """Difference of a figure to that of the real lesions, paired by patient; t-interval over the patients."""
    pairs = {key: painted[key][figure] - real[key][figure] for key in painted if key in real}
    pairs = {key: value for key, value in pairs.items() if np.isfinite(value)}
    if len(pairs) < 2:
        return None
    folds = sorted({fold for fold, _ in pairs})
    values = np.full((1, len(folds), len(pairs)), np.nan)
    for p, ((fold, _), value) in enumerate(sorted(pairs.items())):
        values[0, folds.index(fold), p] = value
    means = summed_up(values, np.isfinite(values[0]))
    half = float(within_folds(means)[0])
    mean = float(means.patients.mean())
    return {"mean": mean, "ci95": [mean - half, mean + half], "patients": len(pairs)}


def markdown(content: dict) -> str:
    """The table for readers: a line for each figure, a column for each method."""
    meta, methods = content["meta"], content["methods"]
    head = ["", REAL, *(name for name in methods if name != REAL)]
    lines = [
        f"# {meta['dataset']}: {meta['class']} painted back into its real surroundings",
        "",
        f"{methods[REAL]['lesions']} slices of lesions of {methods[REAL]['patients']} validation patients, folds "
        f"{', '.join(map(str, meta['folds']))}; {meta['date'][:10]}. `{meta['command']}`",
        "",
        "Mean over patients; in brackets the difference to the real lesions, paired by patient, with a 95 % interval "
        "for new patients and these generators.",
        "",
    ]
    rows = []
    for figure, digits in FIGURES.items():
        cells = [_cell(methods[name][figure], digits) for name in head[1:]]
        rows.append([_TITLES[figure].replace("UNIT", meta.get("unit", HU)), *cells])
    aucs = ["–" if methods[name]["auc"] is None else f"{methods[name]['auc']:.2f}" for name in head[1:]]
    rows.append(["AUC painted against real, at the borders", *aucs])
    return "\n".join([*lines, *table_lines(head, rows), ""])


def _cell(value: dict, digits: int) -> str:
    if value["mean"] is None:
        return "–"
    text = f"{value['mean']:.{digits}f}"
    if value["to_real"] is None:
        return text
    numbers = [f"{n:+.{digits}f}" for n in (value["to_real"]["mean"], *value["to_real"]["ci95"])]
    return f"{text} ({numbers[0]} [{numbers[1]}, {numbers[2]}])"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    output = "JSON file to write; a Markdown table is written beside it"
    p = parser(__doc__, ("cbmat", "copy_paste"), "of drawn lesions, noise and classifier", output)
    p.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME=METHOD OPTIONS",
        help="a further row: a method with other options of difflung_augment, such as 'wide=cbmat --margin 4'",
    )
    o = p.parse_args(arguments)
    try:
        painters = painters_of(o)
        raw = open_raw_dataset(o.d)
        cache = build_cache(raw, cache_folder(raw.name), 1, False)
        unit, width = scale(cache)
        rows, aucs, reals = measure(raw, cache, o, width)
    except BadInput as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    meta = about("regions", raw, o, list(map(str, arguments or sys.argv[1:])), {str(o.o): o.o.name})
    painted = [(name, method, os.environ[NNUNET_RESULTS]) for name, (method, _) in painters.items()]
    content = {
        "meta": meta | {"unit": unit, "generators": generators_of(raw, o.f, painted)},
        "methods": summarised(rows, aucs, reals),
        "per_patient": {
            name: [{"fold": fold, "patient": patient, **row} for (fold, patient), row in of.items()]
            for name, of in rows.items()
        },
    }
    write_json(o.o, without_nan(content))
    write_bytes(o.o.with_suffix(".md"), markdown(without_nan(content)).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
