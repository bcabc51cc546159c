"""The rules of fold-locking: checks that manifest, splits, files and generators agree."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.dataset.contents import digest_of, listed_file
from nnunet_difflung.dataset.splits import SYNTHETIC_PREFIX, is_synthetic
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.card import CARD, TRAINING_FILES, read_card
from nnunet_difflung.injection.manifest import hash_of_patients, run_of, without_contents
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import DATASET, fold_folder, our_folders
from nnunet_difflung.runtime.files import read_json, sha256
from nnunet_difflung.runtime.wording import quoted

_SHOWN_OF_HASH = 12


@dataclass(frozen=True)
class Problem:
    """A line of the audit.

    Attributes:
        text: what is wrong, and where.
        fold: the fold concerned; None for the whole dataset.
        leak: whether information from a fold's validation reaches, or could reach, its training.
    """

    text: str
    fold: int | str | None = None
    leak: bool = False


def start_over(dataset_name: str) -> str:
    """The commands that make the synthetic cases again from what the dataset holds now."""
    return (
        f"run difflung_remove -d {quoted(dataset_name)}, then difflung_augment -d {quoted(dataset_name)}, which names "
        f"the generators that have to be trained anew"
    )


def first_names(names: Iterable[str]) -> str:
    """The first three names and the number of the other names, for a message."""
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")


def origins(case: dict) -> set[str]:
    """Ids of all cases that a synthetic case was made from, by its record: sources, host, donors of its texture."""
    names = {*case["sources"], case.get("host")}
    operations = [step for step in case.get("operations") or () if isinstance(step, dict)]
    names |= {step.get("donor") for step in operations}
    names |= {step["lung"].get("case") for step in operations if isinstance(step.get("lung"), dict)}
    return {name for name in names if isinstance(name, str)}


def split_problems(manifest: dict, splits: list[dict], where: str) -> list[Problem]:
    """Compares splits with the manifest.

    Args:
        manifest: the manifest.
        splits: content of a ``splits_final.json``.
        where: its path, for messages.
    """
    problems: list[Problem] = []
    cases = manifest["cases"]
    for fold, split in enumerate(splits):
        problems += _fold_problems(manifest, split, fold, f"{where} fold {fold}")
    beyond = {name for name, case in cases.items() if case["fold"] != "all" and case["fold"] >= len(splits)}
    if beyond:
        problems.append(
            Problem(f"{where} has {len(splits)} folds, but {first_names(beyond)} were made for another fold")
        )
    return problems


def _fold_problems(manifest: dict, split: dict, fold: int, where: str) -> list[Problem]:
    """Compares a fold's lists with the manifest; ``where`` names the file and the fold."""
    patients, cases = manifest["patients"], manifest["cases"]
    validation = set(split["val"])
    held_out = {patients.get(name, name) for name in validation}
    synthetic = {name for name in split["train"] if is_synthetic(name) or name in cases}
    leaks = [
        f"{where} validates on the synthetic case {name}"
        for name in sorted(validation)
        if is_synthetic(name) or name in cases
    ]
    for side, does in (("train", "trains on"), ("val", "validates on")):
        unknown = {name for name in split[side] if name not in patients and not is_synthetic(name)}
        if unknown:
            leaks.append(
                f"{where} {does} {first_names(unknown)}, which the manifest does not name: added or renamed after the "
                f"synthetic cases were made, so it cannot be shown that no synthetic case was made from the same "
                f"patient; take the case out of the dataset and its splits, or {start_over(manifest['dataset'])}"
            )
    both = {patients.get(name, name) for name in split["train"] if name not in synthetic} & held_out
    if both:
        leaks.append(f"{where} has the same patients in training and validation: {first_names(both)}")
    leaks += [
        f"{where} trains on {name}, which is not in the manifest: it cannot be shown what it was made from"
        for name in sorted(synthetic - set(cases))
    ]
    leaks += [
        f"{where} trains on {name}, which was made for fold {cases[name]['fold']}"
        for name in sorted(synthetic & set(cases))
        if cases[name]["fold"] != fold
    ]
    leaks += [f"{text} (validation of {where})" for text in _origin_leaks(manifest, fold, validation, held_out)]
    problems = [Problem(text, fold, True) for text in leaks]
    absent = {name for name, case in cases.items() if case["fold"] == fold} - synthetic
    if absent:
        problems.append(Problem(f"{where} lacks its synthetic training cases {first_names(absent)}", fold))
    return problems


def _origin_leaks(manifest: dict, fold: int, validation: set[str], held_out: set[str]) -> list[str]:
    """What a fold's synthetic cases and their generators have seen of its validation patients."""
    patients, leaks = manifest["patients"], []
    for identifier, case in sorted(manifest["cases"].items()):
        if case["fold"] != fold:
            continue
        seen = {name for name in origins(case) if name in validation or patients.get(name) in held_out}
        if seen:
            leaks.append(f"{identifier} was made from {first_names(seen)}")
    for run in manifest["runs"]:
        training = (run.get("generator") or {}).get("training_cases", []) if run["fold"] == fold else []
        seen = {name for name in training if name in validation or patients.get(name) in held_out}
        if seen:
            leaks.append(f"the generator of {run['method']} was trained on {first_names(seen)}")
    return leaks


def record_problems(manifest: dict) -> list[Problem]:
    """Whether the manifest accounts for every synthetic case: real sources, a run, its generator."""
    problems = []
    recorded = manifest.get("patients_hash")
    if recorded != hash_of_patients(manifest) and (recorded is not None or "contents" in manifest):
        text = (
            f"the manifest of {manifest['dataset']} names other patients than when the synthetic cases were made, so "
            f"its record was changed; restore it, or {start_over(manifest['dataset'])}"
        )
        problems.append(Problem(text, None, True))
    if "contents" not in manifest and any("contents" in case for case in manifest["cases"].values()):
        text = (
            f"the manifest of {manifest['dataset']} has lost its record of what the real cases held ('contents'); "
            f"restore it, or {start_over(manifest['dataset'])}"
        )
        problems.append(Problem(text, None, True))
    for identifier, case in sorted(manifest["cases"].items()):
        fold, method = case["fold"], case["method"]
        unknown = set(case["sources"]) - set(manifest["patients"])
        if not case["sources"]:
            problems.append(Problem(f"the manifest names no source of {identifier}", fold, True))
        elif unknown:
            text = f"the manifest names sources of {identifier} that are not real cases: {first_names(unknown)}"
            problems.append(Problem(text, fold, True))
        problems += _origin_problems(manifest, identifier, case)
        run = run_of(manifest, case)
        generator = ((run or {}).get("generator") or {}).get("hash")
        if run is None:
            problems.append(Problem(f"the manifest has no run {method} fold {fold} for {identifier}", fold, True))
        elif case.get("generator") and generator != case["generator"]:
            text = (
                f"{identifier} was made by the generator {case['generator'][:_SHOWN_OF_HASH]}, but its run names "
                f"{str(generator)[:_SHOWN_OF_HASH]}"
            )
            problems.append(Problem(text, fold, True))
    return problems


def _origin_problems(manifest: dict, identifier: str, case: dict) -> list[Problem]:
    """Whether host and donors of a case are among its sources, and the sources hold what they held when it was made."""
    fold, unlisted = case["fold"], origins(case) - set(case["sources"])
    if unlisted:
        text = (
            f"the manifest names {first_names(unlisted)} as host or donor of {identifier}, but not among its sources, "
            f"so its record was changed; {start_over(manifest['dataset'])}"
        )
        return [Problem(text, fold, True)]
    if not case["sources"] or "contents" not in manifest or (case["method"], fold) in without_contents(manifest):
        return []
    if case.get("contents") != digest_of(manifest["contents"], case["sources"]):
        text = (
            f"the sources that the manifest names for {identifier} do not hold what it was made from (SHA-256), so its "
            f"record was changed; {start_over(manifest['dataset'])}"
        )
        return [Problem(text, fold, True)]
    return []


def run_problems(manifest: dict) -> list[Problem]:
    """Whether the training cases of each run's generator hold what they held when the cases were injected."""
    problems = []
    for run in manifest["runs"]:
        generator, earlier = run.get("generator") or {}, without_contents(manifest)
        training = generator.get("training_cases", [])
        if not training or (run["method"], run["fold"]) in earlier:
            continue
        if generator.get("contents") != digest_of(manifest["contents"], training):
            text = (
                f"the training cases that the manifest names for the generator of {run['method']}, fold "
                f"{run['fold']}, do not hold what they held when its cases were injected (SHA-256), so its record was "
                f"changed; {start_over(manifest['dataset'])}"
            )
            problems.append(Problem(text, run["fold"], True))
    return problems


def file_problems(folder: Path, manifest: dict, deep: bool) -> list[Problem]:
    """Checks that the raw dataset holds exactly the synthetic files of the manifest.

    Args:
        folder: of the raw dataset.
        manifest: its manifest.
        deep: compare the files' hashes too.
    """
    problems, recorded = [], set()
    for identifier, case in sorted(manifest["cases"].items()):
        for name in case["files"]:
            recorded.add(name)
            path, expected = folder / name, manifest["files"][name]["after"]
            if not path.is_file():
                problems.append(Problem(f"{path} is missing, a file of {identifier}", case["fold"]))
            elif deep and (actual := sha256(path)) != expected:
                text = (
                    f"{path} was changed after it was injected (SHA-256 {actual[:_SHOWN_OF_HASH]}, in the manifest "
                    f"{expected[:_SHOWN_OF_HASH]})"
                )
                problems.append(Problem(text, case["fold"]))
    for part in ("imagesTr", "labelsTr"):
        present = sorted((folder / part).glob(f"{SYNTHETIC_PREFIX}*"))
        problems += [
            Problem(f"{path} is not in the manifest") for path in present if f"{part}/{path.name}" not in recorded
        ]
    return problems


def listing_problems(folder: Path, manifest: dict) -> list[Problem]:
    """Whether ``dataset.json``, if it lists files, leads nnU-Net to those of the synthetic cases.

    Args:
        folder: of the raw dataset.
        manifest: its manifest.
    """
    try:
        listed = read_json(folder / DATASET).get("dataset", {})
        places = {i: [*listed[i]["images"], listed[i]["label"]] for i in sorted(manifest["cases"]) if i in listed}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []  # nnU-Net cannot read it either, and whatever reads the real cases says so
    problems = []
    for identifier, files in places.items():
        case = manifest["cases"][identifier]
        own = {os.path.abspath(folder / name) for name in case["files"]}  # those that are missing are named as such
        lost = [path for path in (listed_file(folder, file) for file in files) if not os.path.isfile(path)]
        if wrong := [path for path in lost if path not in own]:
            text = (
                f"{folder / DATASET} lists {wrong[0]} for {identifier}, which does not exist; correct the path, or "
                f"{start_over(manifest['dataset'])}"
            )
            problems.append(Problem(text, case["fold"]))
    return problems


def generator_problems(name: str, manifest: dict, splits: list[dict]) -> list[Problem]:
    """Checks that the cards of the generators in ``$nnUNet_results`` agree with the manifest.

    Args:
        name: ``DatasetXXX_NAME``.
        manifest: its manifest.
        splits: content of its ``splits_final.json``.
    """
    problems = []
    for run in manifest["runs"] if our_folders(name) else []:
        path = _card_of(name, run)
        if path.is_file():
            problems += _card_problems(path, run, manifest, splits)
    return problems


def generator_notes(name: str, manifest: dict) -> list[str]:
    """Which generators have no card that could confirm what the manifest says of their training cases."""
    without, results = [], bool(our_folders(name))
    for run in manifest["runs"]:
        painted_with = (run.get("generator") or {}).get("hash")
        path = _card_of(name, run) if results and painted_with else None
        try:
            weights = read_card(path.parent).get("weights_sha256", painted_with) if path and path.is_file() else None
        except BadInput:
            continue  # a problem of its own
        if weights != painted_with:
            without.append(f"{run['method']} fold {run['fold']}")
    if not without:
        return []
    return [
        f"the generators that made the cases of {first_names(without)} are not in $nnUNet_results, so only the "
        f"manifest says what they were trained on"
    ]


def _card_of(name: str, run: dict) -> Path:
    method = METHODS[run["method"]].generator if run["method"] in METHODS else run["method"]
    return fold_folder(name, method, run["fold"]) / CARD


def _card_problems(path: Path, run: dict, manifest: dict, splits: list[dict]) -> list[Problem]:
    fold, patients = run["fold"], manifest["patients"]
    try:
        card = read_card(path.parent)
        trained = set(card["training_cases"])
    except BadInput as error:
        return [Problem(str(error), fold)]
    except (ValueError, KeyError, TypeError) as error:
        return [Problem(f"{path} cannot be read ({error!r})", fold)]
    problems = []
    recorded = set((run.get("generator") or {}).get("training_cases", []))
    if trained != recorded:
        text = (
            f"{path} names other training cases of the generator than the manifest: {first_names(trained ^ recorded)}"
        )
        problems.append(Problem(text, fold, True))
    held = card.get(TRAINING_FILES)  # cards of earlier versions do not say
    if held and "contents" in manifest and held != digest_of(manifest["contents"], trained):
        text = (
            f"{path}: the generator was trained on other files than those that the manifest names for its training "
            f"cases (SHA-256), or the card was changed; {start_over(manifest['dataset'])}"
        )
        problems.append(Problem(text, fold, True))
    validation = set(splits[fold]["val"]) if fold != "all" and fold < len(splits) else set()
    held_out = {patients.get(case, case) for case in validation}
    seen = {case for case in trained if case in validation or patients.get(case) in held_out}
    if seen:
        text = f"{path}: trained on {first_names(seen)}, whose patients are in validation in fold {fold}"
        problems.append(Problem(text, fold, True))
    return problems
