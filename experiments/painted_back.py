"""What the experiments share that paint real lesions back to where they are: options, settings, and how it was made."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.config import PRESETS, Settings
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset_conversion.pipeline.archive import MANIFEST
from nnunet_difflung.generator.card import read_card
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import NNUNET_RESULTS, fold_folder
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import read_json

REAL = "real"
OWN = ("-d", "-f", "--method", "--preset", "--seed", "-device")  # of difflung_augment; --augment may not name them
_CONVERTERS = "nnunet_difflung.dataset_conversion"


def parser(description: str | None, methods: Sequence[str], seed: str, output: str) -> argparse.ArgumentParser:
    """The options that the experiments share.

    Args:
        description: of the experiment.
        methods: default of ``--methods``.
        seed: what the seed is of.
        output: what ``-o`` names.
    """
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-d", required=True, help="dataset, in nnUNet_raw")
    p.add_argument("-f", nargs="+", type=int, default=[0], help="folds")
    p.add_argument("--class", dest="pathology", required=True, help="label of the lesions")
    p.add_argument("--methods", nargs="+", default=list(methods), choices=METHODS)
    p.add_argument("--preset", default="fast", choices=PRESETS, help="settings of painting")
    p.add_argument(
        "--augment", default="", metavar="OPTIONS", help="further options of difflung_augment, in one string"
    )
    p.add_argument("--seed", type=int, default=1, help=seed)
    p.add_argument("-device", default="cpu", choices=("cpu", "cuda"))
    p.add_argument("-o", type=Path, required=True, help=output)
    return p


def settings_of(method: str, name: str, further: str = "") -> Settings:
    """A preset's settings for a method, as ``difflung_augment`` takes them with further options."""
    words = ["-d", "1", "-device", "cpu", "--method", method, "--preset", name, *shlex.split(further)]
    return settings_from(parse(words))


def about(module: str, raw: RawDataset, o: argparse.Namespace, words: Sequence[str], folders: dict[str, str]) -> dict:
    """How a table was made.

    Args:
        module: in ``experiments``, as it was called.
        raw: the dataset.
        o: its options, with ``pathology``, ``f`` and ``seed``.
        words: its arguments.
        folders: paths of this machine → what the command on record has instead.
    """
    return {
        "command": f"python -m experiments.{module} {shlex.join(folders.get(word, word) for word in words)}",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "dataset": raw.name,
        "class": o.pathology,
        "folds": o.f,
        "seed": o.seed,
        "machine": machine(),
        "versions": versions(),
        "conversion": conversion_of(raw.folder),
    }


def conversion_of(folder: Path) -> dict | None:
    """How a raw dataset was converted, as its converter recorded it; None if it did not, as for the phantom."""
    if not (folder / MANIFEST).is_file():
        return None
    record = read_json(folder / MANIFEST)
    command = f"python -m {_CONVERTERS}.{record['command']}" if record.get("command") else None
    return {"command": command, **{key: record.get(key) for key in ("kind", "options", "derived", "seed")}}


def generators_of(raw: RawDataset, folds: Sequence[int], painters: Sequence[tuple[str, str, str]]) -> list[dict]:
    """How the generators were trained, as their cards say.

    Args:
        raw: the dataset.
        folds: the folds that were painted.
        painters: row of the table, method, and folder for nnUNet_results, of each painter; those without a generator
            are left out.
    """
    usual, found = os.environ[NNUNET_RESULTS], []
    for row, method, results in painters:
        if not METHODS[method].generator:
            continue
        os.environ[NNUNET_RESULTS] = results
        try:
            cards = {fold: read_card(fold_folder(raw.name, METHODS[method].trained.name, fold)) for fold in folds}
        finally:
            os.environ[NNUNET_RESULTS] = usual
        found += [
            {
                "row": row,
                "fold": fold,
                "seed": card["config"]["seed"],
                "steps": card["total_steps"],
                "training_cases": len(card["training_cases"]),
                "training_slices": card["training_slices"],
                "weights_sha256": card["weights_sha256"],
                "identity": card["settings"],
                "config": card["config"],
                "versions": card["versions"],
            }
            for fold, card in cards.items()
        ]
    return found
