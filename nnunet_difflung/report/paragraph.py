"""A methods paragraph for a manuscript, from the settings on record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nnunet_difflung import __version__
from nnunet_difflung.methods import METHODS, Method
from nnunet_difflung.report.records import Records, folds_named
from nnunet_difflung.runtime.wording import counted


def paragraph(records: Records) -> str:
    """What was done, in sentences that can be pasted; whatever is not on record is left out."""
    records = records.of_made_folds()
    raw, method = records.raw, METHODS[records.method]
    if not records.rows:
        return "The dataset holds no synthetic cases of this method, so there is nothing to write about."
    kept, planned = len(records.cases), sum(row["planned"] for row in records.rows)
    placebo = sum(bool(case.get("placebo")) for case in records.cases.values())
    return " ".join(
        [
            f"Synthetic training cases were made with nnunet_difflung {records.manifest.get('version', __version__)} "
            f"(method {method.name}: {method.explanation}) for {counted(len(records.rows), 'fold')} of an nnU-Net "
            f"dataset of {len(raw.cases)} cases of {counted(len(set(raw.patients.values())), 'patient')}.",
            *_differing(records),
            *_by_fold(records, lambda settings: _network(settings, method), each=bool(method.generator)),
            *_by_fold(records, _masks, complete=lambda sentence, folds: _up_to(records, sentence, folds)),
            f"Of {planned} planned cases {kept} were kept"
            + (f", {placebo} of them without a new lesion (normal lung repainted as normal lung)." if placebo else "."),
            *_by_fold(records, _gate),
            f"Generator, masks and synthetic cases of a fold were made from its training patients alone; the audit of "
            f"the files found {counted(len(records.audit.problems), 'problem')}. Validation and test cases are real.",
            *_by_fold(records, _seeds),
        ]
    )


def _differing(records: Records) -> list[str]:
    """Says in which settings the folds differ."""
    if not records.differing:
        return []
    told = "; ".join(
        f"{name} {' and '.join(f'{value} ({folds_named(folds)})' for value, folds in values.items())}"
        for name, values in records.differing.items()
    )
    return [f"The folds were made with different settings: {told}."]


def _by_fold(
    records: Records,
    says: Callable[[Mapping[str, Any]], str],
    each: bool = False,
    complete: Callable[[str, Sequence[int | str]], str] = lambda sentence, _: sentence,
) -> list[str]:
    """What is said of the settings: once if it is the same of all folds, else for the folds of which it is true.

    Args:
        records: of the method.
        says: settings of a fold → a sentence; empty: nothing is said of it.
        each: the sentence is about something that every fold has of its own.
        complete: sentence and the folds of which it is said → the sentence with what is not among the settings.
    """
    said: dict[str, list[int | str]] = {}
    for fold, settings in records.settings_of_folds.items():
        said.setdefault(says(settings), []).append(fold)
    told = [(sentence, folds) for start, folds in said.items() if (sentence := complete(start, folds))]
    if len(said) == 1:
        return [_after("For each fold " if each else "", sentence) for sentence, _ in told]
    return [
        _after(f"For {'each of ' if each and len(folds) > 1 else ''}{folds_named(folds)}, ", sentence)
        for sentence, folds in told
    ]


def _after(start: str, sentence: str) -> str:
    return f"{start}{sentence[0].lower()}{sentence[1:]}" if start else sentence


def _network(settings: Mapping[str, Any], method: Method) -> str:
    if not method.generator:
        return "Real lesions of training patients were pasted; no network was trained."
    generator, sampling = settings["generator"], settings["sampling"]
    trained = (
        f"A network with {', '.join(map(str, generator['channels']))} channels was trained for "
        f"{counted(generator['epochs'], 'epoch')} on crops of {generator['patch_size']} pixels (batches of "
        f"{generator['batch_size']}, learning rate {generator['learning_rate']:g}, {generator['precision']})"
    )
    if method.family == "gan":
        return f"{trained}."
    return f"{trained}; lesions were painted with the {sampling['sampler']} sampler in {sampling['steps']} steps, " + (
        "within the changed region alone." if sampling["paint"] == "composite" else "on whole slices."
    )


def _masks(settings: Mapping[str, Any]) -> str:
    places = (
        "at places and of sizes like those of real lesions"
        if settings["balance"]["placement"] == "real"
        else "at places drawn uniformly over normal lung"
    )
    return f"Outlines of real lesions of training patients were pasted {places}"


def _up_to(records: Records, sentence: str, folds: Sequence[int | str]) -> str:
    """The sentence with the target shares of some folds; empty if these have none."""
    targets: dict[str, set[str]] = {}
    for run in records.runs:
        for name, target in run["summary"].get("targets", {}).items() if run["fold"] in folds else ():
            targets.setdefault(name, set()).add(f"{target:.1%}")
    shares = "; ".join(f"{name} {' to '.join(sorted(of))}" for name, of in targets.items())
    return f"{sentence}, up to a target share of lung ({shares})." if targets else ""


def _gate(settings: Mapping[str, Any]) -> str:
    words = {
        "drop": "Cases whose intensities differ from real lesions by more than patients differ were dropped.",
        "report": "Intensities were compared with those of real lesions, and no case was dropped for them.",
        "off": "",
    }
    return words[settings["sampling"]["gate"]]


def _seeds(settings: Mapping[str, Any]) -> str:
    return f"Seeds: generator {settings['generator']['seed']}, masks {settings['balance']['seed']}."
