"""Adds synthetic cases to an nnU-Net raw dataset and to their folds' training lists, all or none."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import overload

from nnunet_difflung.dataset.contents import contents_of
from nnunet_difflung.dataset.privacy import as_private_as
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.staged_case import StagedCase
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.change import Change
from nnunet_difflung.injection.commit import Step, commit, finish, pending
from nnunet_difflung.injection.dataset_lock import HIDDEN, locked
from nnunet_difflung.injection.fingerprint import extract, staged_fingerprint
from nnunet_difflung.injection.leaks import first_names
from nnunet_difflung.injection.manifest import (
    FINGERPRINT,
    cases_of,
    hash_of_patients,
    new_manifest,
    read_manifest,
    resolve,
    run_of,
)
from nnunet_difflung.injection.preconditions import check_places, check_unchanged
from nnunet_difflung.injection.run_settings import identity_in
from nnunet_difflung.paths import SPLITS
from nnunet_difflung.runtime.files import json_bytes
from nnunet_difflung.runtime.modes import make_folder
from nnunet_difflung.runtime.parallel import bar
from nnunet_difflung.runtime.wording import quoted

# staged cases of a method and fold, and the manifest's entry of their run
Addition = tuple[list[StagedCase], dict]

_REMOVE = "run difflung_remove first"


def staging_folder(raw: RawDataset) -> Path:
    """The hidden folder in the raw dataset (on the same file system) for files that are not part of it yet."""
    folder = raw.folder / HIDDEN
    if not folder.is_dir():
        make_folder(folder, raw.folder)
    return folder


@overload
def inject(raw: RawDataset, cases: Sequence[StagedCase], run: dict) -> None: ...
@overload
def inject(raw: RawDataset, cases: Sequence[Addition], run: None = None, processes: int | None = None) -> None: ...
def inject(raw: RawDataset, cases: Sequence, run: dict | None = None, processes: int | None = None) -> None:
    """Adds synthetic cases, all or none. Adding the same cases again changes nothing.

    Args:
        raw: the dataset as the cases were made from it.
        cases: staged cases of a method and fold, none if nothing had to be added to it; without ``run``, pairs (staged
            cases, run) of several folds or methods, which are added in one change.
        run: the manifest's entry: ``method``, ``fold`` (``all``: the cases are added to no fold's list), settings,
            generator, summary.
        processes: extract the fingerprint with so many processes if there is none, since another command may have
            removed what ``ensure_real_fingerprint`` has staged; None adds only one that is there.

    Raises:
        BadInput: the dataset was changed in the meantime, or already has other cases of this method and fold.
        Failed: validation patients would leak into training.
    """
    additions: list[Addition] = list(cases) if run is None else [(list(cases), run)]
    with as_private_as(raw.folder, raw.files()), locked(raw.folder):
        finish(raw.folder)
        manifest = read_manifest(raw.folder) or new_manifest(raw.name, raw.patients, reading=raw.reading.as_dict())
        additions = [(staged, new) for staged, new in additions if not _already_in(manifest, staged, new)]
        if processes and any(staged for staged, _ in additions):
            _stage_fingerprint(raw, processes)
        if additions:
            _commit(raw, manifest, additions)


def _already_in(manifest: dict, cases: list[StagedCase], run: dict) -> bool:
    earlier = run_of(manifest, run)
    if earlier is None:
        return False
    present = cases_of(manifest, run)
    before, now = (json_bytes(identity_in(each.get("settings"), run["fold"])) for each in (earlier, run))
    same = before == now
    if not present and (cases or not same or _counted(earlier) != _counted(run)):
        return False  # a run without cases takes nothing away when it is replaced
    if not same or present != {case.identifier for case in cases}:
        name, method, fold = manifest["dataset"], run["method"], run["fold"]
        raise BadInput(
            f"{name} already has {len(present)} cases of method {method}, fold {fold}, which were made with other "
            f"settings; run difflung_remove -d {quoted(name)} -f {fold} --method {method} first"
        )
    return True


def _counted(run: dict) -> bytes:
    """What a run counted as lung and as pathologies, which other roles of the labels change."""
    summary = run.get("summary") or {}
    return json_bytes([summary.get(key) for key in ("voxels_before", "targets", "left_out")])


def _commit(raw: RawDataset, manifest: dict, additions: list[Addition]) -> None:
    """Checks, prepares every file, and commits (the lock is held).

    Without additions it only writes missing files, such as the fingerprint. All that is checked here has been checked
    before the training too; somebody may have changed the dataset in the meantime.
    """
    check_places(raw)
    check_unchanged(raw, manifest)
    change = Change(raw, _with_contents(raw, manifest))
    try:
        commit(raw.folder, _steps(raw, change, additions))
    except BaseException:
        if not pending(raw.folder):
            finish(raw.folder)
        raise


def _with_contents(raw: RawDataset, manifest: dict) -> dict:
    """A copy of the manifest with the hashes of the real cases, which are those that the cases were made from.

    A manifest of an earlier version gets hashes too; ``without_contents`` then names the runs made before, whose cases
    may have been made from other files.

    Raises:
        BadInput: a file of a real case was changed since it was read, or since earlier cases were injected.
    """
    contents = contents_of(raw)
    since = {"its cases were read": raw.contents, "synthetic cases were injected": manifest.get("contents")}
    for event, before in since.items():
        changed = sorted(i for i in contents if before is not None and before.get(i) != contents[i])
        if changed:
            again = "run the same command again" if event == "its cases were read" else _REMOVE
            raise BadInput(
                f"{raw.name}: files of {first_names(changed)} were changed after {event}, so synthetic cases made from "
                f"the earlier and the present files would be mixed; nothing was injected: {again}"
            )
    manifest = copy.deepcopy(manifest)
    if "contents" not in manifest:
        manifest["contents"] = contents
        manifest["patients_hash"] = hash_of_patients(manifest)
        if manifest["runs"]:
            manifest["without_contents"] = [[run["method"], run["fold"]] for run in manifest["runs"]]
    return manifest


def _steps(raw: RawDataset, change: Change, additions: list[Addition]) -> list[Step]:
    """The steps in an order in which nnU-Net, started between two of them, fails or ignores the new cases.

    If there is no split file, nnU-Net makes folds from all cases in the folders, so the file is written before the
    cases. If there is one, nnU-Net ignores cases that are not listed in it, so the cases are moved first.
    """
    cases = [(case, run) for staged, run in additions for case in staged]
    shown = bar(cases, desc="adding cases", unit="case", delay=2)
    moves = [step for case, run in shown for step in change.add_case(case, run)]
    for _, run in additions:
        change.add_run(run)
    before = change.folders() + change.fingerprint()
    listed = (raw.folder / SPLITS).is_file() and (raw.preprocessed / SPLITS).is_file() == raw.preprocessed.is_dir()
    splits = change.splits([(case.identifier, run["fold"]) for case, run in cases])
    last = change.dataset_json([case for case, _ in cases]) + change.manifest_copies()
    return [*change.backups, *before, *(moves + splits if listed else splits + moves), *last]


def ensure_real_fingerprint(raw: RawDataset, processes: int = 2) -> None:
    """Makes sure that there is a fingerprint of the real cases alone, before synthetic cases are added.

    nnU-Net computes its fingerprint from all training cases, and reuses an existing fingerprint. If there is none, it
    is extracted here and kept in the staging folder. The next ``inject`` adds it together with its cases (this function
    adds it if the dataset already has synthetic cases), so that ``difflung_remove`` deletes it with them.

    Args:
        raw: the dataset.
        processes: number of worker processes; 1 uses this process, which is fastest for small datasets.
    """
    if resolve(raw.folder, FINGERPRINT).is_file():
        return
    with as_private_as(raw.folder, raw.files()), locked(raw.folder):
        finish(raw.folder)
        if not resolve(raw.folder, FINGERPRINT).is_file():
            _stage_fingerprint(raw, processes)
            manifest = read_manifest(raw.folder)
            if manifest is not None:
                _commit(raw, manifest, [])


def _stage_fingerprint(raw: RawDataset, processes: int) -> None:
    """Extracts the fingerprint into the staging folder if there is none (the lock is held)."""
    if not resolve(raw.folder, FINGERPRINT).is_file() and not staged_fingerprint(raw).is_file():
        extract(raw, staged_fingerprint(raw), processes)
