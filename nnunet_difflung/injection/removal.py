"""Removes synthetic cases from a dataset, and restores its files byte for byte where no cases are left in it."""

from __future__ import annotations

from pathlib import Path

from nnunet_difflung.dataset.places import belongs_to_another, check_links, refuse_shared
from nnunet_difflung.dataset.privacy import as_private_as
from nnunet_difflung.injection.commit import begin, commit, copy_as_it_is, finish, foreign_in, give_mode, pending
from nnunet_difflung.injection.dataset_lock import HIDDEN, check_hidden, locked
from nnunet_difflung.injection.leaks import first_names
from nnunet_difflung.injection.manifest import PREPROCESSED, cases_of, read_manifest, resolve
from nnunet_difflung.injection.partial_removal import plan_partial_removal, selected_runs
from nnunet_difflung.injection.removal_plan import Removal
from nnunet_difflung.injection.results import generators as delete_generators
from nnunet_difflung.injection.results import selected_generators
from nnunet_difflung.injection.selection import EVERYTHING, Selection
from nnunet_difflung.paths import DATASET, SPLITS, dataset_folder
from nnunet_difflung.runtime.files import write_bytes
from nnunet_difflung.runtime.writable import check_folders


def plan_removal(
    folder: Path, force: bool, selection: Selection = EVERYTHING, generators: bool = False
) -> tuple[Removal | None, list[str]]:
    """Plans a removal; changes nothing.

    Args:
        folder: the raw dataset's folder.
        force: restore originals even if files were changed after the injection, and delete changed synthetic files.
        selection: whose cases go.

    Returns:
        the plan, or None if there is nothing to remove; and lines that describe it.

    Raises:
        BadInput: a synthetic file was changed by somebody else, the synthetic cases cannot be taken out of a changed
            file, a folder is not writable, or nothing is there of what is selected.
    """
    hidden = folder / HIDDEN
    manifest = read_manifest(folder) or read_manifest(resolve(folder, PREPROCESSED))
    if manifest is None:
        foreign = {name.split("/")[0] for name in foreign_in(hidden)}
        if hidden.is_dir() and {path.name for path in hidden.iterdir()} - {"lock"} - foreign:
            empty = Removal(folder, {"files": {}, "cases": {}}, force)
            return empty, [f"removed: what an interrupted command had left in {hidden}", *_kept(hidden)]
        return None, [f"{folder.name} has no synthetic cases; nothing to do"]
    _refuse_foreign_cases(folder)
    meant = any(selection.has(run["method"], run["fold"]) for run in manifest["runs"])
    if selection and not meant and generators and selected_generators(folder.name, selection):
        return None, [f"{folder.name} has no synthetic cases of {selection}"]
    runs = selected_runs(manifest, selection)
    others = [run for run in manifest["runs"] if run not in runs]
    if any(cases_of(manifest, run) for run in others):
        plan = plan_partial_removal(folder, manifest, runs, force)
        check_folders(resolve(folder, step.target).parent for step in plan.steps)
        return plan, plan.lines
    plan = Removal(folder, manifest, force)
    plan.delete_synthetic()
    if others:
        names = ", ".join(f"{run['method']} fold {run['fold']}" for run in others)
        plan.lines.append(f"no synthetic case is left; that nothing was added to {names} is no longer on record either")
    plan.restore(SPLITS)
    plan.restore_preprocessed_splits()
    plan.restore(DATASET)
    plan.restore_preprocessed_dataset_json()
    plan.restore_fingerprint()
    plan.finish()
    check_folders(resolve(folder, step.target).parent for step in plan.steps)
    return plan, plan.lines + _kept(hidden)


def _kept(hidden: Path) -> list[str]:
    foreign = foreign_in(hidden)
    if not foreign:
        return []
    return [f"{hidden} is kept, since it holds files that this package has not written: {first_names(foreign)}"]


def _refuse_foreign_cases(folder: Path) -> None:
    """Refuses to delete synthetic cases in the folder of another dataset, to which a link leads.

    Raises:
        BadInput: names the link and what to do.
    """
    for part in (folder / "imagesTr", folder / "labelsTr"):
        other = belongs_to_another(folder.name, part)
        if other is not None:
            check_links(folder.name, [part])


def remove(
    dataset: str,
    dry_run: bool = False,
    force: bool = False,
    generators: bool = False,
    selection: Selection = EVERYTHING,
) -> list[str]:
    """Removes all synthetic cases and restores the dataset, or removes those of some folds or of one method.

    Once no synthetic case is left, the raw dataset is as before, byte for byte, if nobody has changed it since and the
    originals in its hidden folder are there. Without them the content is restored; a change made since is kept.

    Args:
        dataset: id or name.
        dry_run: change nothing; return what would be done.
        force: restore the originals of dataset.json and the splits even if they were changed after the injection, and
            delete synthetic files that were changed.
        generators: also delete the trained generators, and the cache unless something is selected, in
            ``$nnUNet_results``.
        selection: whose cases and generators go.

    Returns:
        what was done, a line for each action.

    Raises:
        BadInput: a synthetic file was changed by somebody else, the synthetic cases cannot be taken out of a changed
            file, a folder is not writable, or nothing is there of what is selected.
    """
    folder = dataset_folder(dataset)
    refuse_shared(folder.name)
    check_hidden(folder)
    if dry_run:
        first = ["an interrupted change would be finished first"] if pending(folder) else []
        return (
            first
            + plan_removal(folder, force, selection, generators)[1]
            + delete_generators(folder.name, delete=False, asked=generators, selection=selection)
        )
    lines = ["an interrupted change was finished first"] if pending(folder) else []
    with as_private_as(folder), locked(folder):
        finish(folder)
        plan, planned = plan_removal(folder, force, selection, generators)
        of_generators = delete_generators(folder.name, delete=False, asked=generators, selection=selection)
        if plan is not None:  # nothing is refused from here on
            _carry_out(folder, plan)
    if generators:
        of_generators = delete_generators(folder.name, delete=True, asked=True, selection=selection)
    return lines + planned + of_generators


def _carry_out(folder: Path, plan: Removal) -> None:
    begin(folder)
    targets = {step.source: resolve(folder, step.target) for step in plan.steps if step.source}
    for origin, source in plan.sources:
        new, present = folder / source, targets[source]
        if isinstance(origin, bytes):
            write_bytes(new, origin)
            give_mode(new, present, folder / DATASET)
        else:
            copy_as_it_is(origin, new)
            if present.is_file() and not new.is_symlink():
                new.chmod(new.stat().st_mode & (present.stat().st_mode | 0o600))
    commit(folder, plan.steps, clear=plan.is_whole)
