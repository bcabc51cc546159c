"""Compares what nnU-Net will read, the preprocessed arrays, with the files in the raw dataset."""

from __future__ import annotations

import filecmp
import hashlib
import os
import time
from collections import defaultdict
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.audit.array_files import Configuration, configurations, files_of, identifiers
from nnunet_difflung.audit.preprocessing import Preprocessing, Unknown
from nnunet_difflung.dataset.contents import present_cases, stat_key
from nnunet_difflung.dataset.layout import Case
from nnunet_difflung.dataset.privacy import as_private_as
from nnunet_difflung.injection.leaks import Problem, first_names
from nnunet_difflung.paths import DATASET, NNUNET_RESULTS, SPLITS, cache_folder, dataset_folders, dataset_id
from nnunet_difflung.runtime.files import json_bytes, read_json, write_json
from nnunet_difflung.runtime.parallel import bar, in_threads
from nnunet_difflung.runtime.wording import quoted

MEMO = ".preprocessed.json"  # in the cache's folder, beside the remembered hashes
_FORMAT = 1
_SETTLED = 2_000_000_000  # ns; a file changed less long ago may be changed again without a change of its time
_WORTH = 50  # comparing fewer cases takes no longer than remembering them
_THREADS = 4
_SECONDS_UNTIL_BAR = 10
_LABELS = "gt_segmentations"


@dataclass(frozen=True)
class Comparison:
    """Result of comparing preprocessed arrays with the raw dataset.

    Attributes:
        problems: arrays that were made from something else.
        notes: what could not be compared, and why; a line for each.
    """

    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def preprocessed_problems(dataset_name: str) -> list[Problem]:
    """The problems that ``compare_preprocessed`` finds in all configurations of a dataset."""
    return list(compare_preprocessed(dataset_name).problems)


def compare_preprocessed(
    dataset_name: str,
    folder: Path | None = None,
    cases: Collection[str] | None = None,
    progress: bool = False,
    plans: str | None = None,
    anew: bool = False,
) -> Comparison:
    """Compares the preprocessed arrays of a dataset with the files in its raw folder.

    For each case: shape, spacing and crop that nnU-Net noted; the normalised image and the labels, voxel by voxel where
    nnU-Net did not resample, else in small windows (see ``array_match``); the positions of the classes that training
    draws patches from; and the label map in ``gt_segmentations``. A comparison that went well is remembered by size,
    times and inode of all files concerned.

    Args:
        dataset_name: ``DatasetXXX_NAME``.
        folder: the folder of one configuration; None compares all of them.
        cases: ids to compare, which have to be in the raw dataset; None compares all that are in it and preprocessed.
        progress: show a progress bar if it takes long.
        plans: name of the plans by which the arrays have to be made; None: by any plans that read them.
        anew: compare what is remembered, too.
    """
    raw, preprocessed = dataset_folders(dataset_name)
    if preprocessed is None:
        return Comparison()
    if raw is None:
        return Comparison(notes=("the raw dataset is not here, so the preprocessed arrays were not compared with it",))
    in_raw = _raw_cases(raw)
    if in_raw is None:
        return Comparison(notes=(f"{raw / DATASET} cannot be read, so the preprocessed arrays were not compared",))
    memo = _Memo(dataset_name, anew)
    problems = _problems_of_absent(raw, set(cases or ()) - set(in_raw))
    notes: list[str] = []
    for place, sharing in configurations(preprocessed).items():
        if folder is not None and place != Path(folder):
            continue
        own = [configuration for configuration in sharing if configuration.plans_name == plans] or sharing
        wanted = identifiers(place) & set(in_raw)
        chosen = [in_raw[name] for name in sorted(wanted if cases is None else wanted & set(cases))]
        ways: dict[str, Preprocessing] = {}
        reason = ""
        for configuration in own:
            try:
                way = Preprocessing(configuration)
                ways.setdefault(way.digest, way)
            except Unknown as error:
                reason = str(error)
        if not ways:
            notes.append(f"the arrays in {place} were not compared with the raw dataset: {reason}")
        first: list[Problem] = []
        for way in ways.values():
            found = _compare(dataset_name, way, chosen, memo, progress)
            first = first or found
            if not found:
                break
        else:
            problems += first
    problems += _label_problems(dataset_name, preprocessed / _LABELS, in_raw, cases, memo, _ending(raw))
    with as_private_as(raw):
        memo.save()
    return Comparison(tuple(problems), tuple(notes))


def _problems_of_absent(raw: Path, names: set[str]) -> list[Problem]:
    """A problem if cases that are to be trained on are no longer in the raw dataset: they may be test cases now."""
    if not names:
        return []
    text = (
        f"{first_names(names)}, for this training, {'are' if len(names) > 1 else 'is'} preprocessed but not in {raw}; "
        f"restore the files, or take the ids out of {SPLITS} and delete their preprocessed arrays"
    )
    return [Problem(text)]


def _ending(raw: Path) -> str:
    return str(read_json(raw / DATASET).get("file_ending", ""))


def _raw_cases(folder: Path) -> dict[str, Case] | None:
    """The cases that nnU-Net's preprocessing would read; None if the dataset cannot be listed."""
    try:
        listed = present_cases(folder, read_json(folder / DATASET), synthetic=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return {name: case for name, case in listed.items() if case.images}


class _Memo:
    """Comparisons that went well, remembered from one command to the next."""

    def __init__(self, dataset_name: str, anew: bool = False):
        results = os.environ.get(NNUNET_RESULTS)
        self.path = cache_folder(dataset_name) / MEMO if results and os.path.isdir(results) else None
        self._kept = {} if anew else self._read()
        self._new: dict[str, str] = {}

    def key(self, files: Collection[str | Path], also: str = "") -> str:
        """What is remembered of files, and of what else the result depends on; empty if they changed just now.

        Raises:
            OSError: a file is missing.
        """
        keys = [stat_key(file) for file in files]
        if time.time_ns() - max(max(key[1], key[2]) for key in keys) < _SETTLED:
            return ""
        return hashlib.sha256(json_bytes([[str(file) for file in files], keys, also])).hexdigest()

    def has(self, name: str, key: str) -> bool:
        """Whether a comparison is remembered."""
        return bool(key) and self._kept.get(name) == key

    def keep(self, name: str, key: str) -> None:
        """Remembers a comparison that went well."""
        if key:
            self._new[name] = key

    def save(self) -> None:
        """Writes what is new, if that saves time; a folder that cannot be written is no error."""
        if self.path is not None and len(self._new) >= _WORTH and not self.path.parent.is_symlink():
            with suppress(OSError):
                write_json(self.path, {"format": _FORMAT, "same": {**self._read(), **self._new}})

    def _read(self) -> dict[str, str]:
        if self.path is None:
            return {}
        try:
            content = read_json(self.path)
            return dict(content["same"]) if content["format"] == _FORMAT else {}
        except (OSError, ValueError, TypeError, KeyError):
            return {}


def _compare(
    dataset_name: str, preprocessing: Preprocessing, cases: list[Case], memo: _Memo, progress: bool
) -> list[Problem]:
    """The problems of a configuration's arrays, one for each kind of difference."""
    configuration = preprocessing.configuration
    new: list[tuple[Case, str]] = []
    for case in cases:
        files: list[str | Path] = [*case.images, case.label, *files_of(configuration.folder, case.identifier)]
        try:
            key = memo.key(files, preprocessing.digest)
        except OSError:
            key = ""  # the comparison says which file is missing
        if not memo.has(_name(configuration, case), key):
            new.append((case, key))

    def compare(entry: tuple[Case, str]) -> str:
        return preprocessing.difference(entry[0])

    by_reason: dict[str, list[str]] = defaultdict(list)
    with in_threads(compare, new, min(_THREADS, os.cpu_count() or 1)) as reasons:
        shown = bar(
            reasons,
            visible=progress,
            total=len(new),
            desc=f"comparing {configuration.folder.name} with the raw dataset",
            unit="case",
            delay=_SECONDS_UNTIL_BAR,
        )
        for (case, key), reason in zip(new, shown, strict=True):
            if reason:
                by_reason[reason].append(case.identifier)
            else:
                memo.keep(_name(configuration, case), key)
    preprocess = (
        f"nnUNetv2_preprocess -d {dataset_id(dataset_name)} -plans_name {quoted(configuration.plans_name)} "
        f"-c {quoted(configuration.name)}"
    )
    return [
        Problem(
            f"{configuration.folder} holds arrays that were not made from the files of the same name in the raw "
            f"dataset: {reason} in {first_names(names)}; restore the raw files if they are wrong, then run "
            f"{preprocess}",
            None,
            True,
        )
        for reason, names in sorted(by_reason.items())
    ]


def _name(configuration: Configuration, case: Case) -> str:
    return f"{configuration.folder.name}/{case.identifier}"


def _label_problems(
    dataset_name: str, folder: Path, in_raw: dict[str, Case], cases: Collection[str] | None, memo: _Memo, ending: str
) -> list[Problem]:
    """Label maps that nnU-Net scores its validation with, and that are not those of the raw dataset."""
    differing = []
    for name, case in in_raw.items():
        copy = folder / f"{name}{ending}"
        if (cases is not None and name not in cases) or not copy.is_file() or not os.path.isfile(case.label):
            continue
        key = memo.key([case.label, copy])
        if not memo.has(f"{_LABELS}/{name}", key):
            if filecmp.cmp(case.label, copy, shallow=False):
                memo.keep(f"{_LABELS}/{name}", key)
            else:
                differing.append(name)
    if not differing:
        return []
    text = (
        f"{folder} holds other label maps than the raw dataset for {first_names(differing)}; restore the raw files if "
        f"they are wrong, then delete {folder} and run nnUNetv2_preprocess -d {dataset_id(dataset_name)} with the "
        f"configurations that you train"
    )
    return [Problem(text)]
