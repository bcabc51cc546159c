"""What is checked before hours are spent, and before anything is injected."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from nnunet_difflung.config import Settings, differences, identity
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.errors import BadInput, Failed
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.painting.cases import SynthesisResult
from nnunet_difflung.painting.gate import passes
from nnunet_difflung.pipeline.fold import FoldWork
from nnunet_difflung.runtime.locks import using


def check_names(raw: RawDataset, settings: Settings) -> None:
    """Refuses options that name classes or channels which the dataset does not have."""
    windows = settings.generator.windows
    if windows and len(windows) != len(raw.channels):
        raise BadInput(
            f"--window has {len(windows)} pairs, but {raw.name} has {len(raw.channels)} channel(s): "
            f"{', '.join(raw.channels)}; give one LOW,HIGH for each"
        )
    for name in settings.balance.target_share:
        if name not in raw.roles.pathologies:
            raise BadInput(
                f"--target-share names {name!r}, which is no pathology of {raw.folder / 'dataset.json'}: "
                f"{', '.join(raw.roles.pathologies)}"
            )


def warn_of_orientation(raw: RawDataset, facts: dict[str, CaseFacts]) -> None:
    """Says where nnU-Net's 2d configuration would cut slices into lines: it cuts across the largest spacing."""
    odd = [f for f in facts.values() if f.shape[0] == 1 and f.spacing[0] < max(f.spacing[1:])]
    if odd:
        print(
            f"Warning: {odd[0].identifier} and {len(odd) - 1} other single slices of {raw.name} have a spacing along "
            f"z ({odd[0].spacing[0]:g} mm) below that of their pixels ({max(odd[0].spacing[1:]):g} mm), so nnU-Net "
            f"will take another axis for the slice axis and train on patches one pixel wide; write a larger z "
            f"spacing into the files",
            file=sys.stderr,
        )


def folds_to_do(raw: RawDataset, wanted: Sequence[str], settings: Settings) -> list[int | str]:
    """Folds that have no cases of this method yet.

    Raises:
        BadInput: a fold has cases of this method that were made with other settings.
    """
    manifest, folds = read_manifest(raw.folder), raw.folds(wanted)
    method = settings.method
    known = {run["fold"]: run for run in manifest["runs"] if run["method"] == method} if manifest else {}
    now = settings.identity()
    for fold in folds:
        there = identity(known[fold].get("settings")) if fold in known else now
        if there != now:
            raise BadInput(
                f"{raw.name} already holds synthetic cases of method {method} for fold {fold}, made with "
                f"other settings (see {raw.folder / 'difflung_manifest.json'}{_differences(there, now)}); "
                f"run difflung_remove -d {raw.name} first, or repeat the earlier settings"
            )
    return [fold for fold in folds if fold not in known]


def warn_of_other_folds(raw: RawDataset, folds: Sequence[int | str], settings: Settings) -> None:
    """Says where the cases of folds that are not asked for were made with other settings."""
    manifest, now = read_manifest(raw.folder), settings.identity()
    for run in manifest["runs"] if manifest else ():
        there = identity(run.get("settings"))
        if run["method"] == settings.method and run["fold"] not in folds and there != now:
            print(
                f"Warning: fold {run['fold']} of {raw.name} has {run['method']} cases that were made with other "
                f"settings{_differences(there, now)}; folds that are to be compared or averaged should have the same",
                file=sys.stderr,
            )


def _differences(there: object, now: dict) -> str:
    """Names up to four settings that differ, as they were and as they are."""
    found = differences(there, now)
    return "".join(f"; {one}" for one in found[:4]) + ("; …" if len(found) > 4 else "")


@contextmanager
def begun_here(folder: Path) -> Iterator[Callable[[], None]]:
    """Marks a cache as in use, and makes it where it is missing.

    Yields:
        a function that deletes the cache, and the dataset's results folder if nothing else is in it, where both began
        in this block and no other command uses the cache.
    """
    new = [path for path in (folder, folder.parent) if not path.exists()]
    with using(folder) as delete_if_alone:

        def delete() -> None:
            if folder in new and delete_if_alone() and folder.parent in new:
                with suppress(OSError):  # not empty: another method's, or another command's
                    folder.parent.rmdir()

        yield delete


@contextmanager
def nothing_left_on_fault(delete: Callable[[], None]) -> Iterator[None]:
    """Calls ``delete`` if the block ends with ``BadInput``."""
    try:
        yield
    except BadInput:
        delete()
        raise


def refuse_undertrained(work: FoldWork, result: SynthesisResult) -> None:
    """Stops where most cases of a fold were dropped: a poisoned dataset is worse than none."""
    if len(result.staged) >= 0.5 * len(work.plan.cases):
        return
    dropped = f"{len(work.plan.cases) - len(result.staged)} of {len(work.plan.cases)} cases"
    failing = sum(not passes(row["quality"]) for row in result.dropped.values())
    rows = ", ".join(f"{name} bias {row['bias']:+.0f}" for name, row in result.quality_of_all.items())
    if failing < 0.5 * len(result.dropped):
        raise Failed(
            f"fold {work.fold}: {dropped} come too close to training slices; nothing was injected. Inject "
            f"them all the same with --memorised report, or train with fewer --epochs or more patients"
        )
    if not work.method.generator:
        raise Failed(
            f"fold {work.fold}: the gate dropped {dropped} ({rows}): single lesions of the training cases "
            f"differ much from each other; nothing was injected. Inject them all the same with --gate report"
        )
    raise Failed(
        f"fold {work.fold}: the gate dropped {dropped} ({rows}): the generator is under-trained, nothing was "
        f"injected. Look at {work.folder / 'samples'}; delete {work.folder} and train with more --epochs than "
        f"{work.settings.generator.epochs}, or inject all the same with --gate report"
    )
