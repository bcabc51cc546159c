"""Rules of fold-locking: what the manifest, the splits, the files and the generators have to agree on."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.dataset.splits import SYNTHETIC_PREFIX, is_synthetic
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.card import CARD, read_card
from nnunet_difflung.injection.manifest import run_of
from nnunet_difflung.methods import METHODS
from nnunet_difflung.runtime.files import sha256


@dataclass(frozen=True)
class Problem:
    """One line of the audit; ``leak``: something of a fold's validation is known to its training."""

    text: str
    fold: int | str | None = None
    leak: bool = False


def some(names: Iterable[str]) -> str:
    """The first few names, for a message."""
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def split_problems(manifest: dict, splits: list[dict], where: str) -> list[Problem]:
    """What is wrong with splits, given the manifest.

    Args:
        manifest: the manifest.
        splits: content of a ``splits_final.json``.
        where: its path, for messages.
    """
    found: list[Problem] = []
    patients, cases = manifest["patients"], manifest["cases"]
    for fold, split in enumerate(splits):
        validation = set(split["val"])
        held_out = {patients.get(i, i) for i in validation}
        synthetic = {i for i in split["train"] if is_synthetic(i) or i in cases}
        found += [
            Problem(f"{where} fold {fold} validates on the synthetic case {identifier}", fold, True)
            for identifier in sorted(i for i in validation if is_synthetic(i) or i in cases)
        ]
        both = {patients.get(i, i) for i in split["train"] if i not in synthetic} & held_out
        if both:
            found.append(
                Problem(
                    f"{where} fold {fold} has the same patients in training and validation: {some(both)}", fold, True
                )
            )
        found += [
            Problem(
                f"{where} fold {fold} trains on {identifier}, which the manifest does not know: where it comes from "
                f"cannot be shown",
                fold,
                True,
            )
            for identifier in sorted(synthetic - set(cases))
        ]
        found += [
            Problem(
                f"{where} fold {fold} trains on {identifier}, which was made for fold {cases[identifier]['fold']}",
                fold,
                True,
            )
            for identifier in sorted(synthetic & set(cases))
            if cases[identifier]["fold"] != fold
        ]
        found += [
            Problem(f"{text} (validation of {where} fold {fold})", fold, True)
            for text in _origin_leaks(manifest, fold, validation, held_out)
        ]
        absent = {i for i, case in cases.items() if case["fold"] == fold} - synthetic
        if absent:
            found.append(Problem(f"{where} fold {fold} lacks its synthetic training cases {some(absent)}", fold))
    beyond = {i for i, c in cases.items() if c["fold"] != "all" and c["fold"] >= len(splits)}
    if beyond:
        found.append(Problem(f"{where} has {len(splits)} folds; {some(beyond)} were made for another"))
    return found


def _origin_leaks(manifest: dict, fold: int, validation: set[str], held_out: set[str]) -> list[str]:
    """What a fold's synthetic cases and their generators have seen of its validation patients."""
    patients, found = manifest["patients"], []
    for identifier, case in sorted(manifest["cases"].items()):
        if case["fold"] != fold:
            continue
        sources = set(case["sources"]) | ({case["host"]} if isinstance(case.get("host"), str) else set())
        leaked = {i for i in sources if i in validation or patients.get(i) in held_out}
        if leaked:
            found.append(f"{identifier} was made from {some(leaked)}")
    for run in manifest["runs"]:
        training = (run.get("generator") or {}).get("training_cases", []) if run["fold"] == fold else []
        leaked = {i for i in training if i in validation or patients.get(i) in held_out}
        if leaked:
            found.append(f"the generator of {run['method']} was trained on {some(leaked)}")
    return found


def record_problems(manifest: dict) -> list[Problem]:
    """Whether the manifest accounts for every synthetic case: real sources, a run, its generator."""
    found = []
    for identifier, case in sorted(manifest["cases"].items()):
        unknown = set(case["sources"]) - set(manifest["patients"])
        if unknown or not case["sources"]:
            found.append(
                Problem(
                    f"the manifest gives {identifier} sources that are no real case: {some(unknown) or 'none'}",
                    case["fold"],
                    True,
                )
            )
        run = run_of(manifest, case)
        generator = ((run or {}).get("generator") or {}).get("hash")
        if run is None:
            found.append(
                Problem(
                    f"the manifest has no run {case['method']} fold {case['fold']} for {identifier}", case["fold"], True
                )
            )
        elif case.get("generator") and generator != case["generator"]:
            found.append(
                Problem(
                    f"{identifier} was made by the generator {case['generator'][:12]}, its run names "
                    f"{str(generator)[:12]}",
                    case["fold"],
                    True,
                )
            )
    return found


def file_problems(folder: Path, manifest: dict, deep: bool) -> list[Problem]:
    """Whether the raw dataset holds exactly the synthetic files of the manifest (``deep``: with their hashes)."""
    found, known = [], set()
    for identifier, case in sorted(manifest["cases"].items()):
        for name in case["files"]:
            known.add(name)
            path, expected = folder / name, manifest["files"][name]["after"]
            if not path.is_file():
                found.append(Problem(f"{path} is missing, a file of {identifier}", case["fold"]))
            elif deep and sha256(path) != expected:
                found.append(
                    Problem(
                        f"{path} was changed since it was injected (SHA-256 {sha256(path)[:12]}, manifest "
                        f"{expected[:12]})",
                        case["fold"],
                    )
                )
    for part in ("imagesTr", "labelsTr"):
        found += [
            Problem(f"{path} is not in the manifest")
            for path in sorted((folder / part).glob(f"{SYNTHETIC_PREFIX}*"))
            if f"{part}/{path.name}" not in known
        ]
    return found


def generator_problems(name: str, manifest: dict, splits: list[dict]) -> list[Problem]:
    """Whether the generators' own records (in nnUNet_results, where they are at hand) agree with the manifest."""
    found, results = [], os.environ.get("nnUNet_results")
    for run in manifest["runs"] if results else []:
        fold = run["fold"]
        method = METHODS[run["method"]].generator if run["method"] in METHODS else run["method"]
        path = Path(results) / name / f"DiffLung__{method}" / f"fold_{fold}" / CARD
        if not path.is_file():
            continue
        try:
            trained = set(read_card(path.parent)["training_cases"])
        except BadInput as error:
            found.append(Problem(str(error), fold))
            continue
        except (ValueError, KeyError, TypeError) as error:
            found.append(Problem(f"{path} cannot be read ({error!r})", fold))
            continue
        recorded = set((run.get("generator") or {}).get("training_cases", []))
        if trained != recorded:
            found.append(
                Problem(
                    f"{path} says that the generator was trained on other cases than the manifest does: "
                    f"{some(trained ^ recorded)}",
                    fold,
                    True,
                )
            )
        validation = set(splits[fold]["val"]) if fold != "all" and fold < len(splits) else set()
        held_out = {manifest["patients"].get(i, i) for i in validation}
        leaked = {i for i in trained if i in validation or manifest["patients"].get(i) in held_out}
        if leaked:
            found.append(Problem(f"{path}: trained on {some(leaked)}, whose patients validate fold {fold}", fold, True))
    return found
