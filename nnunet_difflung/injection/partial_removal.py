"""Removes the synthetic cases of some folds or of one method; those of the others stay where they are."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.json_style import in_style_of
from nnunet_difflung.injection.manifest import MANIFEST, PREPROCESSED, cases_of, resolve
from nnunet_difflung.injection.preconditions import real_cases
from nnunet_difflung.injection.removal_plan import Removal
from nnunet_difflung.injection.selection import Selection
from nnunet_difflung.injection.without_cases import take_out
from nnunet_difflung.paths import DATASET, SPLITS
from nnunet_difflung.runtime.files import json_bytes, sha256
from nnunet_difflung.runtime.wording import counted


def selected_runs(manifest: dict, selection: Selection) -> list[dict]:
    """The runs whose cases are meant, all of them where nothing is selected.

    Raises:
        BadInput: no run is meant; the message names those that there are.
    """
    runs = [run for run in manifest["runs"] if selection.has(run["method"], run["fold"])]
    if not runs and selection:
        present = "; ".join(f"method {run['method']}, fold {run['fold']}" for run in manifest["runs"])
        raise BadInput(
            f"{manifest['dataset']} has no synthetic cases of {selection}; it has those of {present or 'no method'}"
        )
    return runs


def plan_partial_removal(folder: Path, manifest: dict, runs: Sequence[dict], force: bool) -> Removal:
    """Plans the removal of the cases of some runs; changes nothing.

    The lists come first and the manifests last, so that no list names a case that is gone.

    Args:
        folder: the raw dataset's folder.
        manifest: its manifest, which is not changed.
        runs: the manifest's runs whose cases go.
        force: delete synthetic files even if somebody has changed them.

    Raises:
        BadInput: a synthetic file was changed by somebody else, or a list of cases cannot be read any more.
    """
    cases = set().union(*(cases_of(manifest, run) for run in runs))
    kept = copy.deepcopy(manifest)
    part = {**manifest, "cases": {i: manifest["cases"][i] for i in sorted(cases)}}
    part["files"] = {name: manifest["files"][name] for case in part["cases"].values() for name in case["files"]}
    plan = Removal(folder, part, force)
    plan.is_whole = False
    for name in (SPLITS, PREPROCESSED + SPLITS, DATASET):
        _take_out(plan, kept, name, cases)
    _renew_copy(plan)
    plan.delete_synthetic()
    kept["cases"] = {i: case for i, case in kept["cases"].items() if i not in cases}
    kept["files"] = {name: hashes for name, hashes in kept["files"].items() if name not in part["files"]}
    kept["runs"] = [run for run in kept["runs"] if run not in runs]
    gone = [[run["method"], run["fold"]] for run in runs]
    if "without_contents" in kept:
        kept["without_contents"] = [run for run in kept["without_contents"] if run not in gone]
    for name in (PREPROCESSED + MANIFEST, MANIFEST):
        if resolve(folder, name).is_file():
            plan.put(name, json_bytes(kept))
    left = counted(len(kept["cases"]), "synthetic case")
    runs_left = ", ".join(f"{run['method']} fold {run['fold']}" for run in kept["runs"])
    plan.lines.append(f"kept: {left} ({runs_left})")
    return plan


def _take_out(plan: Removal, kept: dict, name: str, cases: set[str]) -> None:
    """Takes the cases out of a list; an edit that somebody made since stays, and stays known as one."""
    path = resolve(plan.folder, name)
    if not path.is_file():
        return
    present = path.read_bytes()
    try:
        content = json.loads(present)
        changed = take_out(name, content, cases, real_cases(plan.folder))
        written = in_style_of(present, changed)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            f"{path} was changed after the synthetic cases were injected and cannot be read any more ({error!r}); "
            f"restore it, or remove all synthetic cases with --force, which brings the original back"
        ) from error
    if changed == content:
        return
    entry = kept["files"].get(name)
    if entry is not None and entry["after"] == hashlib.sha256(present).hexdigest():
        entry["after"] = hashlib.sha256(written).hexdigest()
    plan.restored[name] = written
    plan.put(name, written)
    plan.lines.append(f"{path}: the cases are taken out")


def _renew_copy(plan: Removal) -> None:
    """nnU-Net's copy of ``dataset.json`` follows, where it is one."""
    name = PREPROCESSED + DATASET
    copied, written = resolve(plan.folder, name), plan.restored.get(DATASET)
    if isinstance(written, bytes) and copied.is_file() and sha256(copied) == sha256(plan.folder / DATASET):
        plan.put(name, written)
