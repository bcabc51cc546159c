"""Ours beside the public segmentation-guided code: both learn from the same real slices for the same seconds.

    python -m benchmarks.peer -d 807 -f 0 --class ground_glass --seconds 1200 -o docs/results/peer_lidc.json

Both see the fold's training slices that show lung, then paint the lesions of a class of its validation patients. The
public code (``public_code``) paints the whole slice, which is all it can; ours paints each lesion into its slice, as
augmentation does. The same voxels of the same slices are judged: those of the class. Each runs in a process of its own,
whose peak memory counts. Rows are written as they come, with a picture beside them, and those on record for the same
settings are not made again.
The dataset has to be in nnUNet_raw; in nnUNet_results only its cache is made.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, median, stdev

import numpy as np
import torch

from benchmarks import public_code
from benchmarks.timing import seconds as timed
from experiments.further import of_augment
from experiments.painted_back import OWN, conversion_of, settings_of
from experiments.region_painting import open_fold, painted_lesions
from nnunet_difflung.config import METHOD
from nnunet_difflung.dataset.cache import SliceCache, build_cache
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.dataset.reading import is_ct
from nnunet_difflung.errors import BadInput
from nnunet_difflung.evaluation.grey_levels import GREY_LEVELS
from nnunet_difflung.evaluation.image_metrics import Pool, add_to_pool, class_figures, pool_slice
from nnunet_difflung.evaluation.real_slices import slices_with_lung
from nnunet_difflung.evaluation.references import training_reference
from nnunet_difflung.generator.encoding import intensity_windows
from nnunet_difflung.generator.store import load_generator
from nnunet_difflung.generator.training import total_steps, train_generator
from nnunet_difflung.lesions.balance import collect_lesions
from nnunet_difflung.paths import NNUNET_RESULTS, cache_folder
from nnunet_difflung.runtime.device import usual_precision
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.figures import LUNG_WINDOW, ORANGE, Window, bare, drawing, show_grey
from nnunet_difflung.runtime.files import read_json, write_json

_TIMED = 20  # steps of ours that tell how long an epoch takes
_TIMES = 3  # that ours paints the slices, which takes it seconds
FIGURES = {
    "hu_bias": "bias, {unit}",
    "sd_ratio": "sd / real",
    "wasserstein": "Wasserstein, {unit}",
    "texture": "texture distance",
}
SAME = (
    "d",
    "f",
    "pathology",
    "seconds",
    "preset",
    "augment",
    "slices",
    "size",
    "batch_size",
    "seed",
    "device",
    "threads",
)
"""The options on which a row depends."""


@dataclass(frozen=True)
class Slice:
    """A painted slice: its patient, case and z, the real and the painted image (h, w) in HU, and the judged voxels."""

    patient: str
    place: tuple[str, int]
    real: np.ndarray
    image: np.ndarray
    lesion: np.ndarray


def chosen(raw: RawDataset, cache: SliceCache, o: argparse.Namespace) -> list[tuple[str, int]]:
    """(case, z) of the validation slices that are judged: up to ``o.slices`` that hold the class, evenly spaced."""
    places = [
        (case, z)
        for case, z in slices_with_lung(cache, raw.validation_cases(o.f))
        if cache.facts[case].counts[o.pathology][z]
    ]
    return [places[i] for i in np.unique(np.linspace(0, len(places) - 1, o.slices).round().astype(int))]


def window_of(raw: RawDataset, cache: SliceCache, o: argparse.Namespace) -> Window:
    """Intensities of the first channel that both learn: [−1000, 1000] HU of CT, else those of the training cases."""
    return intensity_windows(cache, raw.training_cases(o.f), tuple(raw.channels), ())[0]


def ours(raw: RawDataset, cache: SliceCache, o: argparse.Namespace) -> tuple[list[Slice], dict]:
    """Slices that ``difflung`` paints after as many whole epochs as ``o.seconds`` have room for."""
    options = f"--precision {usual_precision(o.device)} --seed {o.seed} {o.augment}"
    settings = settings_of(METHOD, o.preset, options)
    fold = open_fold(raw, cache, o.f, settings)
    slices = len(slices_with_lung(cache, fold.data.training_cases))

    def trained(epochs: int, steps: int | None = None) -> float:
        config = replace(settings.generator, epochs=epochs)
        begun = time.perf_counter()
        train_generator(fold.data, fold.method, config, fold.folder, o.device, progress=False, stop_after=steps)
        return time.perf_counter() - begun

    short = []
    for steps in (5, 5 + _TIMED):  # what does not depend on the number of steps is in both
        with _new_results():
            short.append(trained(1000, steps))
    epoch = (short[1] - short[0]) / _TIMED * total_steps(replace(settings.generator, epochs=1), slices)
    if epoch > o.seconds:
        raise SystemExit(f"an epoch takes {epoch:.0f} s; give --seconds {round(epoch + 1)} or more")
    epochs = int(o.seconds / epoch)
    wanted = set(chosen(raw, cache, o))
    with _new_results():
        seconds = trained(epochs)
        painted = list(painted_lesions(fold, o.pathology, o.device, o.seed, wanted))  # and what is done once

        def paint() -> None:
            list(painted_lesions(fold, o.pathology, o.device, o.seed, wanted))

        def load() -> None:
            load_generator(fold.folder, o.device)

        taken = median(timed(paint, o.device) - timed(load, o.device) for _ in range(_TIMES))
    whole: dict[tuple[str, int], Slice] = {}
    for part in painted:
        before = whole.get(part.place)
        image, lesion = (part.image, part.lesion)
        if before is not None:
            image, lesion = np.where(part.region, part.image, before.image), part.lesion | before.lesion
        whole[part.place] = Slice(part.patient, part.place, part.real, image, lesion)
    steps = total_steps(replace(settings.generator, epochs=epochs), slices)
    found = {"steps": steps, "images_per_s": steps * settings.generator.batch_size / seconds}
    found |= {"training_seconds": seconds, "seconds_a_slice": taken / len(whole)}
    kept = [part for part in whole.values() if part.place in wanted]
    return kept, {**found, "evaluations": settings.sampling.steps}


@contextmanager
def _new_results() -> Iterator[None]:
    """An empty folder for nnUNet_results meanwhile."""
    before = os.environ[NNUNET_RESULTS]
    with tempfile.TemporaryDirectory() as folder:
        os.environ[NNUNET_RESULTS] = folder
        try:
            yield
        finally:
            os.environ[NNUNET_RESULTS] = before


def public(raw: RawDataset, cache: SliceCache, o: argparse.Namespace) -> tuple[list[Slice], dict]:
    """Slices that the public code paints after ``o.seconds`` of training."""
    with tempfile.TemporaryDirectory() as folder:
        window = window_of(raw, cache, o)
        for case, z in slices_with_lung(cache, raw.training_cases(o.f)):
            name = f"{case}_{z:04d}"
            public_code.write_slice(Path(folder), name, cache.image(case)[0, z], cache.condition(case)[z], window)
        network, found = public_code.train(Path(folder), cache.roles.condition_values().tolist(), o)
    places = chosen(raw, cache, o)
    conditions = [np.array(cache.condition(case)[z]) for case, z in places]
    images: list[np.ndarray] = []
    taken = timed(lambda: images.extend(public_code.paint(network, conditions, window, o)), o.device)
    value = raw.roles.values[o.pathology]
    slices = [
        Slice(raw.patients[case], (case, z), np.asarray(cache.image(case)[0, z], np.float32), image, condition == value)
        for (case, z), condition, image in zip(places, conditions, images, strict=True)
    ]
    return slices, {**found, "seconds_a_slice": taken / len(places), "evaluations": public_code.STEPS}


PAINTERS = {"difflung": ours, "public code": public}


def counted(part: Slice, raw: RawDataset, cache: SliceCache, pathology: str) -> np.ndarray:
    """(h, w) bool, the judged voxels of a slice, the same for both painters."""
    case, z = part.place
    large = np.zeros(cache.facts[case].shape, bool)
    for lesion in collect_lesions([case], cache.facts, raw.roles, cache.label).get(pathology, []):
        large[lesion.box] |= lesion.mask
    return part.lesion & large[z]


def judged(slices: Sequence[Slice], raw: RawDataset, cache: SliceCache, o: argparse.Namespace) -> dict:
    """Figure → mean and standard deviation over patients, and their number.

    Parts of the class that are too small to be a lesion (``lesions.masks``), which ours does not paint, do not count.
    """
    window = window_of(raw, cache, o)
    scales = training_reference(raw, cache, o.f, window).scales
    pools: dict[str, tuple[Pool, Pool]] = defaultdict(lambda: ({}, {}))
    for part in slices:
        case, z = part.place
        condition = np.where(counted(part, raw, cache, o.pathology), raw.roles.values[o.pathology], 0)
        for pool, image in zip(pools[part.patient], (part.real, part.image), strict=True):
            key = (zlib.crc32(case.encode()), z)
            add_to_pool(pool, pool_slice(np.clip(image, *window), condition, key, raw.roles, window))
    rows = [class_figures(*pool, scales) for pool in pools.values()]
    found = {}
    for name in FIGURES:
        values = [row[name][o.pathology] for row in rows if o.pathology in row[name]]
        sd = stdev(values) if len(values) > 1 else None
        found[name] = {"mean": fmean(values) if values else None, "sd": sd, "patients": len(values)}
    return found


def show(slices: Sequence[Slice], window: Window, path: Path) -> None:
    """Real slices over painted ones, six at most, with the lesion's outline in the real one."""
    shown = [slices[i] for i in np.unique(np.linspace(0, len(slices) - 1, 6).round().astype(int))]
    with drawing(path, 2.2 * len(shown), 4.6) as figure:
        axes = figure.subplots(2, len(shown), squeeze=False)
        for column, part in zip(axes.T, shown, strict=True):
            for ax, image, title in zip(column, (part.real, part.image), ("real", "painted"), strict=True):
                show_grey(ax, image, window)
                bare(ax, title)
            column[0].contour(part.lesion, [0.5], colors=ORANGE, linewidths=0.8)


def measure(name: str, o: argparse.Namespace) -> dict:
    """Everything about a painter, in a process of its own."""
    torch.set_num_threads(o.threads)
    raw = open_raw_dataset(o.d)
    cache = build_cache(raw, cache_folder(raw.name), progress=False)
    slices, found = PAINTERS[name](raw, cache, o)
    window = LUNG_WINDOW if is_ct(raw.channels[0]) else window_of(raw, cache, o)
    show(slices, window, o.o.with_name(f"{o.o.stem}_{name.replace(' ', '_')}.png"))
    memory = {"memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
    if o.device == "cuda":
        memory["cuda_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
    about = {"date": date.today().isoformat(), "machine": machine(), "versions": versions()}
    return {**found, **memory, "slices": len(slices), **judged(slices, raw, cache, o), "meta": about}


def markdown(content: dict) -> str:
    """A line for each painter."""
    head = [
        "",
        "training, s",
        "steps",
        "images/s",
        "s a painted slice",
        "network evaluations",
        *FIGURES.values(),
        "memory, MiB",
    ]
    head = [word.format(unit=content["meta"]["unit"]) for word in head]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in content["rows"].items():
        figures = [_with_spread(row[figure]) for figure in FIGURES]
        memory = row.get("cuda_memory_mib", row["memory_mib"])
        speed = [f"{row['steps']:,}", f"{row['images_per_s']:.3g}", f"{row['seconds_a_slice']:.3g}"]
        cells = [name, f"{row['training_seconds']:.0f}", *speed, str(row["evaluations"]), *figures, f"{memory:,.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_spread(figure: dict) -> str:
    if figure["mean"] is None:
        return "–"
    mean, sd = figure["mean"], figure["sd"]
    digits = 0 if max(abs(mean), sd or 0) >= 20 else 2
    return f"{mean:.{digits}f}" + ("" if sd is None else f" ± {sd:.{digits}f}")


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-d", required=True, help="dataset, in nnUNet_raw")
    p.add_argument("-f", type=int, default=0, help="fold (default: %(default)s)")
    p.add_argument("--class", dest="pathology", required=True, help="label of the lesions that are judged")
    p.add_argument("--seconds", type=float, default=600, help="of training for each (default: %(default)s)")
    p.add_argument("--preset", default="fast", choices=("default", "fast"), help="ours (default: %(default)s)")
    p.add_argument("--augment", default="", metavar="OPTIONS", help="ours: further options of difflung_augment")
    p.add_argument("--slices", type=int, default=24, help="judged at most (default: %(default)s)")
    p.add_argument("--size", type=int, help="the public code's images (default: of the largest slice, by 32 pixels)")
    p.add_argument("--batch-size", type=int, default=32, help="the public code's (default: %(default)s)")
    p.add_argument("--seed", type=int, default=1, help="of weights, donors and noise (default: %(default)s)")
    p.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch (default: %(default)s)")
    p.add_argument("-device", default="cpu", choices=("cpu", "cuda"), help="(default: %(default)s)")
    p.add_argument("-o", type=Path, required=True, help="JSON file of the rows")
    return p


def main(words: Sequence[str] | None = None) -> None:
    """Entry of the command line."""
    words, p = sys.argv[1:] if words is None else words, parser()
    o = p.parse_args(words)
    try:
        of_augment("--augment", o.augment, *OWN, "--epochs")
    except BadInput as error:
        p.error(str(error))
    raw = open_raw_dataset(o.d)
    cache = build_cache(raw, cache_folder(raw.name), progress=False)
    o.size = o.size or -(-max(max(case.shape[1:]) for case in cache.facts.values()) // 32) * 32
    settings = {name: getattr(o, name) for name in SAME}
    content = read_json(o.o) if o.o.is_file() else {}
    if content.get("settings") != settings:
        content = {"settings": settings, "rows": {}}
    content["meta"] = {
        "command": f"python -m benchmarks.peer {shlex.join(words)}",
        "dataset": raw.name,
        "unit": "HU" if is_ct(raw.channels[0]) else GREY_LEVELS,
        "conversion": conversion_of(raw.folder),
    }
    for name in PAINTERS:
        if name not in content["rows"]:
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                content["rows"][name] = process.submit(measure, name, o).result()
            write_json(o.o, content)
    print(markdown(content))


if __name__ == "__main__":
    main()
