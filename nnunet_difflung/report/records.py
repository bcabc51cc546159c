"""What is on record about a method's synthetic cases in a dataset; everything that the report says comes from here."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nnunet_difflung.audit.audit import Audit, audit
from nnunet_difflung.config import completed, identity
from nnunet_difflung.dataset.cache import read_cache
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.store import is_finished
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.paths import (
    PATH_VARIABLES,
    cache_folder,
    dataset_id,
    fold_folders,
    nnunet_folder,
    results_folder,
)
from nnunet_difflung.patients.candidates import plausible_readings, slices_of_series
from nnunet_difflung.pipeline.on_record import known_report
from nnunet_difflung.report.injected import cases_of, in_hu
from nnunet_difflung.runtime.wording import counted

_SHORT = 3  # characters; a possible patient with fewer is rather a figure of a sentence


@dataclass(frozen=True)
class Records:
    """A dataset's records of one method.

    Attributes:
        raw: the dataset.
        method: name of the method.
        report: content of ``augment_report.json``, with what the manifest alone knows.
        manifest: of the dataset; without cases if nothing was injected.
        audit: of the dataset, from its files.
        anonymous: whether real cases are called by numbers.
    """

    raw: RawDataset
    method: str
    report: Mapping[str, Any]
    manifest: Mapping[str, Any]
    audit: Audit
    anonymous: bool = False

    @cached_property
    def _all_rows(self) -> list[dict]:
        """The folds of the report, in order, whatever was done to the dataset since."""
        return sorted(self.report["folds"], key=lambda row: (isinstance(row["fold"], str), row["fold"]))

    @cached_property
    def rows(self) -> list[dict]:
        """The folds of the report, in order, without those that were removed from the dataset since."""
        made = self.made
        return [row for row in self._all_rows if row["fold"] in made or row.get("stopped")]

    @property
    def made(self) -> set[int | str]:
        """The folds whose runs the manifest has: their cases are in the dataset, or they need none."""
        return {run["fold"] for run in self.runs}

    @property
    def removed(self) -> list[int | str]:
        """The folds whose cases are on record, and no longer in the dataset."""
        present = {row["fold"] for row in self.rows}
        return [row["fold"] for row in self._all_rows if row["injected"] and row["fold"] not in present]

    def of_made_folds(self) -> Records:
        """The records of ``made`` alone: not of folds whose run was stopped, so that nothing was added to them."""
        return replace(self, report={**self.report, "folds": [row for row in self.rows if row["fold"] in self.made]})

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        """The settings of the last run: ``generator``, ``sampling``, ``balance``, ``preset``."""
        return completed(self.report["settings"])

    @cached_property
    def settings_of_folds(self) -> dict[int | str, Mapping[str, Any]]:
        """Fold → the settings of its run; of the last run if the manifest has none of the fold."""
        own = {run["fold"]: completed(run["settings"]) for run in self.runs}
        return {row["fold"]: own.get(row["fold"], self.settings) for row in self.rows}

    @cached_property
    def differing(self) -> dict[str, dict[str, list[int | str]]]:
        """Setting in which the folds' runs differ → its value → the folds; not what suits a device (``identity``)."""
        values: dict[tuple[str, str], dict[str, list[int | str]]] = {}
        for fold, settings in self.settings_of_folds.items():
            for part, of in completed(identity(settings)).items():
                for key, value in of.items() if isinstance(of, dict) else ():
                    values.setdefault((part, key), {}).setdefault(_as_told(key, value), []).append(fold)
        keys = [key for _, key in values]
        return {
            f"{key} of {part}" if keys.count(key) > 1 else key: folds
            for (part, key), folds in values.items()
            if len(folds) > 1
        }

    @cached_property
    def cases(self) -> dict[str, dict]:
        """Id → entry in the manifest, of the method's synthetic cases."""
        return {i: case for i, case in sorted(self.manifest["cases"].items()) if case["method"] == self.method}

    @cached_property
    def without_host(self) -> list[str]:
        """Those whose host has been taken out of the dataset; what was painted in them can no longer be told."""
        return [i for i, case in self.cases.items() if case["host"] not in self.raw.cases]

    def with_host(self, name: str) -> list[str]:
        """Those with new lesions of a class whose host is still in the dataset, sorted."""
        gone = set(self.without_host)
        return [i for i in cases_of(self.manifest, self.method, name) if i not in gone]

    @cached_property
    def runs(self) -> list[dict]:
        """Entries of the method's runs in the manifest, one for each fold."""
        return [run for run in self.manifest["runs"] if run["method"] == self.method]

    @property
    def unfinished(self) -> list[str]:
        """Folds whose generator has been begun or finished, but of which nothing is on record."""
        known = {str(row["fold"]) for row in self._all_rows}
        folders = fold_folders(results_folder(self.raw.name, self.method))
        return [
            f"{number} ({'generator trained' if is_finished(folder) else 'generator not finished'})"
            for folder in folders
            if (number := folder.name.rpartition("_")[2]) not in known
        ]

    @cached_property
    def voxels(self) -> dict[str, dict[str, int]]:
        """Real case → label → number of its voxels; from the cache if there is a current one, else from the files."""
        cache, names = read_cache(self.raw, cache_folder(self.raw.name)), self.raw.roles.lung
        if cache is not None:
            return {i: {name: facts.voxels(name) for name in names} for i, facts in cache.facts.items()}
        counts = {}
        for identifier in self.raw.cases:
            label, _ = self.raw.read_label(identifier)
            counts[identifier] = {name: int((label == self.raw.roles.values[name]).sum()) for name in names}
        return counts

    @cached_property
    def training_cases(self) -> list[str]:
        """The real cases in the training part of the folds that are on record or have synthetic cases."""
        folds = {row["fold"] for row in self.rows} | {case["fold"] for case in self.cases.values()}
        return sorted({i for fold in folds for i in self.raw.training_cases(fold)})

    @cached_property
    def in_hu(self) -> tuple[int, ...]:
        """Numbers of the channels that hold HU."""
        return in_hu(self.raw, self.training_cases[0])

    @cached_property
    def _numbers(self) -> dict[str, str]:
        """Every name that could say who a patient is → what it is called instead."""
        recorded, known = self.manifest.get("patients", {}), set(self.raw.patients.values())
        used = {i for case in self.manifest["cases"].values() for i in (case["host"], *case.get("sources", ()))}
        cases = [*sorted(self.raw.cases), *sorted({*recorded, *used} - set(self.raw.cases))]
        others = set(recorded.values())
        for ids in (sorted(recorded), cases):  # the audit may name a patient by a reading of either
            for reading in plausible_readings(ids) or filter(None, [slices_of_series(ids)]):
                others |= {name for name in reading.patients.values() if len(name) >= _SHORT and not name.isdigit()}
        called = {patient: f"patient {n}" for n, patient in enumerate([*sorted(known), *sorted(others - known)], 1)}
        return called | {identifier: f"real {n}" for n, identifier in enumerate(cases, 1)}

    @cached_property
    def _names(self) -> re.Pattern[str]:
        """Finds these names where a name can stand."""
        names = sorted(self._numbers, key=len, reverse=True)
        # a patient may be called 2: not the number of a fold, nor a part of 0.25 or 2 %
        before, after = r"(?<![A-Za-z0-9])(?<!fold )(?<!\d\.)", r"(?![A-Za-z0-9]|\.\d| ?%)"
        return re.compile(rf"{before}({'|'.join(map(re.escape, names))}){after}")

    def called(self, identifier: str) -> str:
        """What a real case is called: its id, or its number if the records are anonymous."""
        return self._numbers.get(identifier, "a real case of earlier") if self.anonymous else identifier

    def hidden(self, text: str) -> str:
        """``without_folders`` of a text that may name cases or patients, with numbers instead if it is anonymous."""
        text = without_folders(text)
        if not self.anonymous:
            return text
        return self._names.sub(lambda match: self._numbers[match[1]], text)


def _as_told(key: str, value: Any) -> str:
    """A setting's value in a sentence."""
    if key == "exclude":
        return counted(len(value), "case")
    return value if isinstance(value, str) else json.dumps(value).replace("null", "none")


def folds_named(folds: Sequence[int | str]) -> str:
    """Folds in a sentence, such as ``fold 0`` and ``folds 0, 1 and 4``."""
    *others, last = map(str, folds)
    return f"folds {', '.join(others)} and {last}" if others else f"fold {last}"


def without_folders(text: str) -> str:
    """The text with nnU-Net's variables instead of its folders on this machine; commands in it can still be typed."""
    folders = {str(Path(nnunet_folder(variable))): variable for variable in PATH_VARIABLES}
    for folder in sorted(folders, key=len, reverse=True):
        text = re.sub(rf"(?<![\w./-]){re.escape(folder)}(?![\w-]|\.\w)", f"${folders[folder]}", text)
    return re.sub(r"'(\$nnUNet_\w+[^']*)'", r'"\1"', text)  # a shell does not look into single quotes


def read_records(raw: RawDataset, method: str, anonymous: bool = False) -> Records:
    """What is on record about a method in a dataset.

    Args:
        raw: the dataset.
        method: name in ``methods.METHODS``.
        anonymous: call real cases and patients by numbers.

    Raises:
        BadInput: the method has no report, or a record is damaged.
    """
    manifest = read_manifest(raw.folder)
    report = known_report(raw.name, method, manifest)
    if report is None:
        raise BadInput(
            f"{raw.name} has no synthetic cases of {method} on record "
            f"({results_folder(raw.name, method) / 'augment_report.json'} does not exist); run "
            f"'difflung_augment -d {dataset_id(raw.name)} --method {method}' first, or name another --method"
        )
    manifest = manifest or {"cases": {}, "runs": []}
    return Records(raw, method, report, manifest, audit(raw.name, untouched=True), anonymous)
