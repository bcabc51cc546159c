"""``difflung_remove``: takes every synthetic case out of a dataset again and restores its files byte for byte."""
from __future__ import annotations

import argparse
import os
import shutil
from contextlib import suppress
from pathlib import Path

from nnunet_difflung.command_line import command
from nnunet_difflung.commit import begin, commit, finish, pending, sync_file
from nnunet_difflung.files import delete_path
from nnunet_difflung.fold import cache_folder
from nnunet_difflung.lock import delete_unused, locked
from nnunet_difflung.raw_layout import dataset_folder
from nnunet_difflung.removal import Removal, plan_removal


def remove(dataset: str, dry_run: bool = False, force: bool = False, generators: bool = False) -> list[str]:
    """Removes all synthetic cases and restores the dataset.

    Args:
        dataset: id or name.
        dry_run: only say what would be done.
        force: restore dataset.json and the splits although they were changed after the injection.
        generators: delete the trained generators in ``$nnUNet_results`` too.

    Returns:
        what was done, a line each.

    Raises:
        BadInput: a file to be restored was changed by somebody else, or its original is lost.
    """
    folder = dataset_folder(dataset)
    if dry_run:
        waiting = ["an interrupted change would be finished first"] if pending(folder) else []
        return waiting + plan_removal(folder, force)[1] + _generators(folder.name, delete=False, asked=generators)
    lines = ["an interrupted change was finished first"] if pending(folder) else []
    with locked(folder):
        finish(folder)
        plan, said = plan_removal(folder, force)
        if plan is not None:
            _carry_out(folder, plan)
    return lines + said + _generators(folder.name, delete=generators, asked=generators)


def _carry_out(folder: Path, plan: Removal) -> None:
    begin(folder)
    for backup, source in plan.backups:
        shutil.copy2(backup, folder / source, follow_symlinks=False)
        sync_file(folder / source)
    commit(folder, plan.steps, clear=True)


def _generators(name: str, delete: bool, asked: bool) -> list[str]:
    results = os.environ.get("nnUNet_results")
    folders = sorted((Path(results) / name).glob("DiffLung__*")) if results else []
    if not folders:
        return []
    kept = [path for folder in folders for path in _delete(folder)] if delete else []
    told = [f"{path} stays: another command is using it" for path in kept]
    listed = ", ".join(str(folder) for folder in folders if not delete or not folder.exists())
    if not listed:
        return told
    return [*told, f"removed: {listed}" if asked else f"generators stay in {listed} (--generators deletes them)"]


def _delete(folder: Path) -> list[Path]:
    """Deletes the cache or a method's folder but for what another command uses, which is returned."""
    if folder == cache_folder(folder.parent.name):
        return [] if delete_unused(folder) else [folder]
    kept = [path for path in sorted(folder.glob("fold_*")) if path.is_dir() and not delete_unused(path)]
    if not kept:
        for entry in folder.iterdir():
            if not entry.name.startswith("fold_"):  # those that are there now were begun by another command
                delete_path(entry)
        with suppress(OSError):
            folder.rmdir()
    return kept


def main(argv: list[str] | None = None) -> int:
    """``difflung_remove``."""
    parser = argparse.ArgumentParser(prog="difflung_remove", description="Takes every synthetic case out of a dataset "
                                     "and restores its files byte for byte.")
    parser.add_argument("-d", dest="dataset", required=True, help="dataset id or name")
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and touch nothing")
    parser.add_argument("--force", action="store_true", help="restore files although they were changed since")
    parser.add_argument("--generators", action="store_true", help="delete the trained generators too")
    args = parser.parse_args(argv)
    lines = remove(args.dataset, args.dry_run, args.force, args.generators)
    print("Would be done:" if args.dry_run else "Done:")
    for line in lines:
        print(f"- {line}")
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
