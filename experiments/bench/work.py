"""Makes one row: synthetic cases, their arrays, the training, the figures; each step through the real commands."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import defaultdict
from contextlib import redirect_stderr
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from io import StringIO
from pathlib import Path

from experiments.bench.arms import ARMS, SETS
from experiments.bench.base import Base
from experiments.bench.commands import TRAINING, Commands, working_on
from experiments.bench.rows import Row
from experiments.bench.scoring import all_figures
from experiments.bench.splits import drawn, index_of
from experiments.bench.workspace import keep_remembered, open_workspace
from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.config import Settings
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import NNUNET_RAW, NNUNET_RESULTS, fold_name, method_name
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import read_json, write_json
from nnunet_difflung.trainers.dose import SCHEDULE, SHARE

_TRAINING_GENERATOR: dict[Path, threading.Lock] = defaultdict(threading.Lock)


@dataclass(frozen=True)
class Bench:
    """What decides about all rows of a bench.

    Attributes:
        folder: of the bench.
        kind: key of ``SETS``.
        base: what all rows share.
        augment: options of ``difflung_augment`` for all arms.
    """

    folder: Path
    kind: str
    base: Base
    augment: tuple[str, ...]

    def settings(self, row: Row) -> dict:
        """All that decides about a row beside its name.

        The options of ``difflung_augment`` leave the rest to a preset, whose values another version may have changed;
        ``cases`` is the hash of all values (``Settings.identity``), but for the row's own seed.
        """
        arm = ARMS[row.arm]
        options = [*self.augment, *arm.options] if arm.method else []
        return (
            {"set": self.kind, "trainer": arm.trainer, "method": arm.method, "augment": options}
            | {"network": self.base.network}
            | ({"cases": _settings(arm.method, tuple(options)).hash()} if arm.method else {})
            | ({"dose": arm.dose} if arm.dose else {})
            | ({"schedule": arm.schedule} if arm.schedule else {})
        )

    def is_possible(self, row: Row) -> bool:
        """Whether the fold has more source patients than the row's number, so that the row is not that of ``all``."""
        return row.number == "all" or int(row.number) < self.base.sources(row.fold)


@cache
def _settings(method: str, options: tuple[str, ...]) -> Settings:
    words = ["-d", "1", "--method", method, "--seed", "0", "--precision", "fp32", *options]
    with redirect_stderr(StringIO()):  # says which options the method does not use, as it does in each row's log
        return settings_from(parse(words))


def _painter(bench: Bench, row: Row) -> str:
    """Name of the generator that paints a row's cases; arms share it unless their options change its weights."""
    arm = ARMS[row.arm]
    own = _settings(arm.method, (*bench.augment, *arm.options)).generator
    usual = own == _settings(arm.method, bench.augment).generator
    return METHODS[arm.method].generator if usual else row.arm


def make_row(bench: Bench, row: Row) -> dict:
    """Carries out all steps of a row; an interrupted row continues with its unfinished step.

    Returns:
        The content of its file.

    Raises:
        RuntimeError: a command failed.
    """
    with working_on(bench.folder / "work" / f"{row.name}.lock") as lock:
        return _make(bench, row, lock)


def _make(bench: Bench, row: Row, lock: int) -> dict:
    root, base, arm = bench.folder / "work" / row.name, bench.base, ARMS[row.arm]
    remembered = bench.folder / "remembered" / f"seed{row.seed}"
    begun = time.monotonic()
    open_workspace(root, base, row.seed, remembered)
    commands = Commands(root, bench.folder / "logs" / f"{row.name}.log", lock)
    commands.seconds.setdefault("link", time.monotonic() - begun)
    entry = index_of(row.number, row.fold, len(base.splits))
    if arm.method:
        _augment(bench, row, commands, entry)
    scores = _train(bench, row, commands, entry)
    content = {
        "settings": bench.settings(row),
        "figures": all_figures(scores["patients"], next(iter(scores["patients"].values()))),
        "patients": scores["patients"],
        "probabilities": scores.get("probabilities", {}),
        "validation_cases": scores["cases"],
        "sources": drawn(_having(base, row.fold), row.number, row.seed, row.fold),
        "synthetic": _synthetic(root, base.dataset),
        "seconds": {**commands.seconds, **scores["seconds"]},
        "cpu_seconds": commands.cpu,
        "commands": commands.typed,
        "commits": commands.commits,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
    }
    keep_remembered(root, base, remembered)
    return content


def tidy(bench: Bench, row: Row) -> None:
    """Deletes the folders of a row whose file is written."""
    shutil.rmtree(bench.folder / "work" / row.name, ignore_errors=True)
    (bench.folder / "work" / f"{row.name}.lock").unlink(missing_ok=True)


def _having(base: Base, fold: int) -> set[str]:
    return {base.patients[case] for case in base.splits[fold]["train"]}.intersection(base.rare)


def _augment(bench: Bench, row: Row, commands: Commands, entry: int) -> None:
    """Adds the synthetic cases, with the generator of an earlier row where one was trained on the same cases."""
    arm, dataset, kind = ARMS[row.arm], bench.base.dataset, SETS[bench.kind]
    generator = METHODS[arm.method].generator
    results = commands.root / NNUNET_RESULTS / dataset
    own = results / method_name(generator) / fold_name(entry) if generator else None
    kept = bench.folder / "generators" / f"{_painter(bench, row)}_n{row.number}_seed{row.seed}_fold{row.fold}"
    with _TRAINING_GENERATOR[kept]:
        if own is not None and kept.is_dir() and not own.is_dir():
            shutil.copytree(kept, own)
        options = ["-d", kind.number, "-f", str(entry), "--method", arm.method, "--seed", str(row.seed)]
        words = [*options, "-device", "cpu", "-np", "1", *bench.augment, *arm.options]
        commands.module("augment", "nnunet_difflung.commands.augment", words)
        if own is not None and not kept.is_dir():
            unfinished = kept.with_name(f".{kept.name}.{threading.get_ident()}")
            shutil.copytree(own, unfinished, ignore=shutil.ignore_patterns("synthesis_*", ".lock"))
            try:
                unfinished.rename(kept)
            except OSError:  # another process was faster
                shutil.rmtree(unfinished)
    commands.module("preprocess", "experiments.bench.preprocess", [kind.number, kind.network])


def _train(bench: Bench, row: Row, commands: Commands, entry: int) -> dict:
    scores, kind = commands.root / "scores.json", SETS[bench.kind]
    if not scores.is_file():
        write_json(scores.with_name("about.json"), {"patients": bench.base.patients, "lesions": bench.base.lesions})
        training = [kind.number, kind.network, str(entry), "-tr", ARMS[row.arm].trainer, "-device", "cpu"]
        words = [str(scores), str(row.iterations), str(row.seed * 1000 + entry), "--", *training]
        arm = ARMS[row.arm]
        dose = {SHARE: arm.dose, SCHEDULE: arm.schedule}  # empty: the default, whatever the user's shell has
        variables = {"nnUNet_n_proc_DA": "0", "DIFFLUNG_SEED": str(row.seed), **dose}
        commands.module(TRAINING, "experiments.bench.train", words, variables)
    content = read_json(scores)
    if "cpu_seconds" in content:
        commands.ended_unseen(TRAINING, sum(content["seconds"].values()), content["cpu_seconds"])
    return content


def _synthetic(root: Path, dataset: str) -> dict | None:
    """What ``difflung_augment`` recorded of the row's synthetic cases."""
    manifest = root / NNUNET_RAW / dataset / "difflung_manifest.json"
    if not manifest.is_file():
        return None
    content = read_json(manifest)
    summary = json.loads(json.dumps(content["runs"][0].get("summary") or {}))
    return {"cases": len(content["cases"]), **{key: summary.get(key) for key in ("planned", "injected", "quality")}}
