"""Runs all arms of tables 1 and 2 on one dataset, with several seeds and folds, through the real commands; resumable.

    python -m experiments.run_arms --set phantom -o WORK --seeds 1 2 3 -f 0 --methods cbmat mat copy_paste

Each seed has its own three nnU-Net folders below WORK, since a seed decides the generator's weights, the masks, the
noise and the segmenter's weights. Within a seed every arm shares folds, plans, preprocessing, iterations and that seed.
``--jobs`` trainings run at a time, each on its own core. Finished steps are skipped, so the same command resumes an
interrupted run. A failed command is reported with its log, and the other seeds, methods and arms continue. Results
should not come from the phantom on which settings were chosen: ``--convert "--seed N"`` draws other patients, and
``--convert "--classic --size 64 --seed N"`` other patients of the classic phantom, which the older tables on record
used. Slices of clinical size are too large for a CPU; ``--crop 64`` trains the U-Net on crops of them.

Methods that paint whole slices get table 1; each method paints lesions of the validation patients back where they are,
for table 1 by region. Afterwards ``python -m experiments.make_results --set phantom -o WORK`` writes the tables' JSON
files.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from experiments.further import of_augment, of_converter, of_evaluate
from nnunet_difflung.config import METHOD, PAPERS_METHOD
from nnunet_difflung.demonstration.small_trainings import (
    ALL_CASES_ALIKE,
    CONFIGURATION,
    installed,
    make_small_configuration,
)
from nnunet_difflung.demonstration.stages import STAGES, STEPS_OF_CROP
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.families import family_of
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import NNUNET_PREPROCESSED, NNUNET_RAW, NNUNET_RESULTS, PATH_VARIABLES, fold_name
from nnunet_difflung.runtime.files import read_json, write_json


@dataclass(frozen=True)
class Set:
    """A dataset of the tables: nnU-Net's id and name, and its rare class."""

    number: int
    name: str
    rare: str


SETS = {
    "phantom": Set(800, "Dataset800_ChestPhantom", "emphysema"),
    "medseg": Set(801, "Dataset801_MedSegCOVID19", "consolidation"),
}
CONTROLS = {
    "reference": "nnUNetTrainerDiffLungReference",
    "reference_poly": "nnUNetTrainerDiffLungReferencePoly",
    f"{METHOD}_poly": "nnUNetTrainerDiffLungPoly",
    f"{PAPERS_METHOD}_poly": "nnUNetTrainerDiffLungPoly",
}
ARMS = CONTROLS | {name: method.trainer for name, method in METHODS.items()}


@dataclass(frozen=True)
class Run:
    """One seed of an experiment: its folder and its settings.

    Attributes:
        root: folder that holds nnU-Net's three folders.
        kind: ``phantom`` or ``medseg``.
        seed: of everything except the dataset.
        folds: nnU-Net folds.
        methods: methods that paint synthetic cases.
        arms: keys of ``ARMS`` to train.
        length: suffix of the trainers.
        convert: further options of the converter.
        augment: further options of difflung_augment.
        evaluate: further options of difflung_evaluate.
        crop: side of the square crops that the U-Net is trained on, in pixels; 0: nnU-Net's patch size.
    """

    root: Path
    kind: str
    seed: int
    folds: tuple[int, ...]
    methods: tuple[str, ...]
    arms: tuple[str, ...]
    length: str
    convert: tuple[str, ...]
    augment: tuple[str, ...]
    evaluate: tuple[str, ...]
    crop: int = 0

    @property
    def dataset(self) -> str:
        """nnU-Net's dataset id."""
        return str(SETS[self.kind].number)

    def folder(self, variable: str) -> Path:
        """The dataset's folder in one of nnU-Net's three."""
        return self.root / variable / SETS[self.kind].name

    def trained(self, arm: str, fold: int) -> Path:
        """The folder of an arm's training."""
        name = f"{ARMS[arm]}_{self.length}__nnUNetPlans__{CONFIGURATION}"
        return self.folder(NNUNET_RESULTS) / name / fold_name(fold)

    def call(self, name: str, arguments: list[str], **variables: str) -> None:
        """Runs a command on one core; its output goes to ``logs/<name>.log``."""
        variables = {
            "OMP_NUM_THREADS": "1",
            "nnUNet_def_n_proc": "1",
            "nnUNet_compile": "f",
            **ALL_CASES_ALIKE,
            **variables,
            **{v: str(self.root / v) for v in PATH_VARIABLES},
        }
        log = self.root / "logs" / f"{name}.log"
        begun = time.monotonic()
        with open(log, "a") as file:
            code = subprocess.run(installed(arguments), env=os.environ | variables, stdout=file, stderr=file).returncode
        with open(self.root / "logs" / "seconds.txt", "a") as file:
            file.write(f"{name} {time.monotonic() - begun:.0f}\n")
        if code:
            raise RuntimeError(f"{' '.join(arguments)} failed with exit code {code}; see {log}")


def prepare(run: Run) -> None:
    """Makes the dataset and the synthetic cases of every method, and preprocesses them; finished steps are skipped."""
    for variable in (*PATH_VARIABLES, "logs"):
        (run.root / variable).mkdir(parents=True, exist_ok=True)
    if not (run.folder(NNUNET_RAW) / "dataset.json").is_file():
        run.call(
            "convert", [sys.executable, "-m", f"nnunet_difflung.dataset_conversion.{SETS[run.kind].name}", *run.convert]
        )
    failed = {}
    for method in run.methods:
        try:
            run.call(
                f"augment_{method}",
                [
                    "difflung_augment",
                    "-d",
                    run.dataset,
                    "-f",
                    *map(str, run.folds),
                    "--method",
                    method,
                    "--seed",
                    str(run.seed),
                    "-device",
                    "cpu",
                    *run.augment,
                ],
            )
        except RuntimeError as error:  # also a result: the arms of this method are not trained, the other arms are
            failed[method] = str(error)
    write_json(run.root / "failed_methods.json", failed)
    plans = run.folder(NNUNET_PREPROCESSED) / "nnUNetPlans.json"
    manifest = run.folder(NNUNET_RAW) / "difflung_manifest.json"
    cases = sorted(read_json(manifest)["cases"]) if manifest.is_file() else []
    done = run.root / "preprocessed.json"
    if not done.is_file() or read_json(done) != cases:
        run.call("plan", ["nnUNetv2_plan_and_preprocess", "-d", run.dataset, "-c", "2d", "-np", "1"])
        smaller = {"stages": STAGES, "patch_size": [run.crop, run.crop]} if run.crop else {}
        make_small_configuration(plans, convolutions=1, batch_size=12, **smaller)  # nnU-Net would take 2 convolutions
        write_json(done, cases)


def table1(run: Run) -> None:
    """Paints the validation masks of the folds with every generator."""
    target = run.root / "table1.json"
    painters = {METHODS[m].generator for m in run.methods} - {"", *failed_methods(run)}
    generators = sorted(name for name in painters if family_of(METHODS[name]).paints_whole_slices)
    known = read_json(target) if target.is_file() else {"meta": {"folds": []}}
    if generators and (set(generators) - set(known) or set(run.folds) - set(known["meta"]["folds"])):
        run.call(
            "evaluate",
            [
                "difflung_evaluate",
                "-d",
                run.dataset,
                "-f",
                *map(str, run.folds),
                "--methods",
                *generators,
                "--seed",
                str(run.seed),
                "-device",
                "cpu",
                "-o",
                str(target),
                *run.evaluate,
            ],
        )


def regions(run: Run) -> None:
    """Paints lesions of the folds' validation patients back to where they are, with every method."""
    target, methods = run.root / "regions.json", [name for name in run.methods if name not in failed_methods(run)]
    known = read_json(target) if target.is_file() else {"meta": {"folds": []}, "methods": {}}
    if set(methods) - set(known["methods"]) or set(run.folds) - set(known["meta"]["folds"]):
        words = ["-d", run.dataset, "-f", *map(str, run.folds), "--class", SETS[run.kind].rare, "--methods", *methods]
        preset, further = _preset_of(run.augment)
        options = ["--preset", preset, f"--augment={shlex.join(further)}", "--seed", str(run.seed), "-o", str(target)]
        run.call("regions", [sys.executable, "-m", "experiments.regions", *words, *options])


def _preset_of(augment: Sequence[str]) -> tuple[str, list[str]]:
    """The preset that options of ``difflung_augment`` name, and the other options."""
    p = argparse.ArgumentParser(add_help=False)
    p.add_argument("--preset", default="default")
    known, further = p.parse_known_args(augment)
    return known.preset, further


def failed_methods(run: Run) -> dict:
    """Methods whose synthetic cases could not be made → error."""
    path = run.root / "failed_methods.json"
    return read_json(path) if path.is_file() else {}


def train(run: Run, arm: str, fold: int) -> None:
    """Trains and validates an arm, then predicts and scores the test patients, if there are any."""
    folder, name = run.trained(arm, fold), f"{arm}_fold{fold}"
    if not (folder / "validation" / "summary.json").is_file():
        resume = ["--c"] if any(folder.glob("checkpoint_*.pth")) else []
        run.call(
            f"train_{name}",
            [
                "nnUNetv2_train",
                run.dataset,
                CONFIGURATION,
                str(fold),
                "-tr",
                f"{ARMS[arm]}_{run.length}",
                "-device",
                "cpu",
                *resume,
            ],
            nnUNet_n_proc_DA="0",
            DIFFLUNG_SEED=str(run.seed),
        )
    raw, test = run.folder(NNUNET_RAW), folder / "test"
    if (raw / "imagesTs").is_dir() and not (test / "summary.json").is_file():
        run.call(
            f"predict_{name}",
            [
                "nnUNetv2_predict",
                "-i",
                str(raw / "imagesTs"),
                "-o",
                str(test),
                "-d",
                run.dataset,
                "-c",
                CONFIGURATION,
                "-f",
                str(fold),
                "-tr",
                f"{ARMS[arm]}_{run.length}",
                "-device",
                "cpu",
                "-npp",
                "1",
                "-nps",
                "1",
                "--disable_tta",
            ],
        )
        run.call(
            f"score_{name}",
            [
                "nnUNetv2_evaluate_folder",
                str(raw / "labelsTs"),
                str(test),
                "-np",
                "1",
                "-djfile",
                str(raw / "dataset.json"),
                "-pfile",
                str(run.folder(NNUNET_PREPROCESSED) / "nnUNetPlans.json"),
            ],
        )


def everything(runs: list[Run], jobs: int) -> int:
    """Works through all seeds, ``jobs`` commands at a time, earlier seeds first; returns the number of failures."""
    failures, running = 0, {}
    waiting = [(number, 0, "prepare", lambda run=run: prepare(run)) for number, run in enumerate(runs)]
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            waiting.sort(key=lambda task: task[:2])
            while waiting and len(running) < jobs:
                number, _, name, work = waiting.pop(0)
                running[pool.submit(work)] = (number, name)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, name = running.pop(future)
                failures += _finished(future, f"seed {runs[number].seed} {name}")
                if name == "prepare" and not future.exception():
                    waiting += _after(number, runs[number])
    return failures


def _after(number: int, run: Run) -> list:
    trainings = [
        (number, 1, f"{arm} fold {fold}", lambda arm=arm, fold=fold: train(run, arm, fold))
        for fold in run.folds
        for arm in run.arms
        if arm.removesuffix("_poly") not in failed_methods(run)
    ]
    tables = [(number, 2, "table 1", lambda: table1(run)), (number, 2, "table 1 by region", lambda: regions(run))]
    return [*trainings, *(tables if run.methods else [])]


def _finished(future: Future, name: str) -> int:
    error = future.exception()
    print(f"{time.strftime('%H:%M:%S')} {name}: {'done' if error is None else f'FAILED: {error}'}", flush=True)
    return error is not None


def _has_cases(arm: str, methods: Sequence[str]) -> bool:
    """Whether an arm's trainer finds cases of its method; the trainer of both ``_poly`` arms takes METHOD's first."""
    poly = [method for method in (METHOD, PAPERS_METHOD) if method in methods]
    return not arm.endswith("_poly") or arm == "reference_poly" or arm.removesuffix("_poly") in poly[:1]


def _published(word: str) -> str:
    """A typed word without the folders of this machine."""
    parts = ["FOLDER" if "/" in part and Path(part).is_dir() else part for part in word.split(" ")]
    return repr(" ".join(parts)) if len(parts) > 1 else parts[0]


def main() -> None:
    """Entry of the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--set", required=True, choices=SETS, help="dataset")
    p.add_argument("-o", required=True, metavar="WORK", help="folder for datasets, trainings and logs")
    p.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    p.add_argument("-f", nargs="+", type=int, default=[0], help="folds")
    p.add_argument(
        "--pair",
        action="store_true",
        help="run only the first fold with the first seed, the second fold with the second seed, and so on, "
        "if there is no time for all seeds in all folds",
    )
    p.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    p.add_argument("--controls", nargs="*", default=list(CONTROLS), choices=CONTROLS)
    p.add_argument("--length", default="5epochs", help="suffix of the trainers")
    p.add_argument("--jobs", type=int, default=2, help="commands at a time, each on its own core")
    p.add_argument(
        "--crop",
        type=int,
        default=0,
        metavar="PIXELS",
        help=f"train the U-Net on square crops of this size, a multiple of {STEPS_OF_CROP} (default: nnU-Net's own)",
    )
    p.add_argument("--convert", default="", help="further options of the converter, in one string")
    p.add_argument("--augment", default="--preset fast", help="further options of difflung_augment, in one string")
    p.add_argument("--evaluate", default="--preset fast", help="further options of difflung_evaluate, in one string")
    o = p.parse_args()
    everywhere = ("-d", "-f", "--seed", "-device")
    try:
        convert = tuple(of_converter("--convert", o.convert, SETS[o.set].name))
        augment = tuple(of_augment("--augment", o.augment, *everywhere, "--method"))
        evaluate = tuple(of_evaluate("--evaluate", o.evaluate, *everywhere, "--methods", "-o"))
    except BadInput as error:
        p.error(str(error))
    root = Path(o.o).resolve()
    root.mkdir(parents=True, exist_ok=True)
    arms = tuple(arm for arm in (*o.controls, *o.methods) if _has_cases(arm, o.methods))
    if o.crop % STEPS_OF_CROP:
        raise SystemExit(f"--crop {o.crop}: expected a multiple of {STEPS_OF_CROP}")
    if o.pair and len(o.seeds) != len(o.f):
        raise SystemExit(f"--pair: {len(o.seeds)} seeds and {len(o.f)} folds; expected the same number of both")
    runs = [
        Run(
            root / f"seed_{seed}",
            o.set,
            seed,
            (o.f[number],) if o.pair else tuple(o.f),
            tuple(o.methods),
            arms,
            o.length,
            convert,
            augment,
            evaluate,
            o.crop,
        )
        for number, seed in enumerate(o.seeds)
    ]
    known = read_json(root / "run.json")["commands"] if (root / "run.json").is_file() else []
    words = "python -m experiments.run_arms " + " ".join(map(_published, sys.argv[1:]))
    write_json(root / "run.json", {"commands": [*(c for c in known if c != words), words]})
    sys.exit(min(everything(runs, o.jobs), 1))


if __name__ == "__main__":
    main()
