"""From an nnU-Net dataset with a rare class to the same dataset with synthetic cases of it."""

from __future__ import annotations

import time
from pathlib import Path

from nnunet_difflung.dataset.cache import SliceCache, build_cache
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.dataset.reading import with_class_counts
from nnunet_difflung.injection.commit import read_steadily
from nnunet_difflung.injection.inject import ensure_real_fingerprint, inject
from nnunet_difflung.painting.cases import discard_work
from nnunet_difflung.painting.preview import write_preview
from nnunet_difflung.paths import PATH_VARIABLES, cache_folder, dataset_folder, nnunet_folder, results_folder
from nnunet_difflung.pipeline.estimates import check_disk
from nnunet_difflung.pipeline.fold import FoldWork, check_fold, prepare_fold, synthesize_fold, train_fold
from nnunet_difflung.pipeline.preflight import (
    begun_here,
    check_names,
    folds_to_do,
    nothing_left_on_fault,
    refuse_undertrained,
    warn_of_orientation,
    warn_of_other_folds,
)
from nnunet_difflung.pipeline.report import (
    audit_and_go_on,
    conclude,
    describe_fold,
    describe_result,
    dry_run,
    run_entry,
)
from nnunet_difflung.pipeline.request import Request
from nnunet_difflung.runtime.files import write_bytes
from nnunet_difflung.runtime.launcher import join, leave
from nnunet_difflung.runtime.locks import working_alone
from nnunet_difflung.runtime.share import Share


def augment(request: Request) -> None:
    """Runs all stages; the same request goes on where an interrupted one stopped, and does nothing twice.

    Raises:
        BadInput: before any computing.
        Failed: the gate dropped most cases, or the audit found a leak.
    """
    share = join(request.device)
    raw, folds = open_dataset(request)
    if not folds:
        if share.main:
            print(f"{raw.name} already holds these synthetic cases; nothing to do.")
            audit_and_go_on(raw, raw.folds(request.folds), request)
        return
    if share.main:
        _introduce(raw)
        warn_of_other_folds(raw, folds, request.settings)
    if request.dry_run:
        if share.main:
            dry_run(raw, folds, request)
        return
    with begun_here(cache_folder(raw.name)) as delete:
        seconds: dict[str, float] = {}
        # one of several processes deletes nothing: others may still write there, and their launcher does it
        with nothing_left_on_fault(delete if share.number == 1 else lambda: None):
            raw, cache, works = _prepare(raw, folds, request, share, seconds)
        _carry_out(raw, works, cache, request, share, seconds)


def _carry_out(
    raw: RawDataset, works: list[FoldWork], cache: SliceCache, request: Request, share: Share, seconds: dict[str, float]
) -> None:
    """Tells the plan and does what of it is left to do."""
    if share.main:
        warn_of_orientation(raw, cache.facts)
        for work in works:
            print(describe_fold(work))
    works = [work for work in works if work.plan.cases]
    if not works:
        if share.main:
            print("Nothing to add: every pathology has its target share, or no lesion fits (see above).")
        return
    with working_alone({folder for work in works for folder in (work.own_folder, work.folder)}, share):
        # another command may have done these folds while this one waited
        left = folds_to_do(raw, [str(work.fold) for work in works], request.settings)
        works = [work for work in works if work.fold in left]
        if works:
            _run(raw, works, cache, request, share, seconds)
        elif share.main:
            print(f"Meanwhile another command has added these cases to {raw.name}; nothing to do.")
            audit_and_go_on(raw, raw.folds(request.folds), request)


def open_dataset(request: Request) -> tuple[RawDataset, list[int | str]]:
    """The dataset, and the folds that have no such cases yet; finishes a change that was interrupted."""
    for variable in PATH_VARIABLES:
        nnunet_folder(variable)

    def read() -> tuple[RawDataset, list[int | str]]:
        raw = open_raw_dataset(request.dataset, request.normal_label, request.structure_labels, request.patient_pattern)
        check_names(raw, request.settings)
        return raw, folds_to_do(raw, request.folds, request.settings)

    return read_steadily(dataset_folder(request.dataset), read, request.dry_run)


def _prepare(
    raw: RawDataset, folds: list[int | str], request: Request, share: Share, seconds: dict[str, float]
) -> tuple[RawDataset, SliceCache, list[FoldWork]]:
    """Checks and caches the cases, makes folds where there are none, and plans every fold; notes the ``seconds``."""
    begun, lesions = time.monotonic(), {}
    cache = build_cache(raw, cache_folder(raw.name), request.processes, share.main, share)
    raw = with_class_counts(raw, cache.facts)
    seconds["cache"], begun = time.monotonic() - begun, time.monotonic()
    works = [prepare_fold(raw, fold, request.settings, cache.facts, cache.label, lesions) for fold in folds]
    for work in works:
        check_fold(work, cache)
    check_disk(works, cache.facts)
    seconds["plan"] = time.monotonic() - begun
    return raw, cache, works


def _introduce(raw: RawDataset) -> None:
    print(
        f"{raw.name}: {len(raw.cases)} real cases of {len(set(raw.patients.values()))} patients"
        f"{', no splits_final.json: patient-grouped folds' if raw.splits_are_new else ''}; normal lung is "
        f"{raw.roles.normal!r}, pathologies are {', '.join(map(repr, raw.roles.pathologies))}"
    )


def _run(
    raw: RawDataset, works: list[FoldWork], cache: SliceCache, request: Request, share: Share, seconds: dict[str, float]
) -> None:
    done, begun = [], time.monotonic()
    for work in works:  # all folds are trained before the first is painted: nobody waits long in a collective
        train_fold(work, cache, request.device, request.save_every)
    leave()
    seconds["train"] = time.monotonic() - begun
    begun = time.monotonic()
    for work in works:
        done.append(synthesize_fold(work, cache, request.device, share=share, threads=request.processes))
        if share.main:
            print(describe_result(work, done[-1][1]))
            refuse_undertrained(work, done[-1][1])
    if not share.main:
        for work in works:
            write_bytes(_has_read(work, share, share.index), b"")
        return
    seconds["paint"], begun = time.monotonic() - begun, time.monotonic()
    preview = results_folder(raw.name, request.settings.method) / "preview.png"
    shown = write_preview(done, preview)
    ensure_real_fingerprint(raw, request.processes)
    inject(raw, [(result.staged, run_entry(work, s, result)) for work, (s, result) in zip(works, done, strict=True)])
    for work in works:
        share.wait_for(_has_read(work, share, index) for index in range(1, share.number))
        discard_work(work.work)
    seconds["inject"] = time.monotonic() - begun
    conclude(raw, works, done, seconds, request, preview if shown else None)


def _has_read(work: FoldWork, share: Share, index: int) -> Path:
    """Written by a process that needs nothing more of what was painted, so that it may be deleted."""
    return work.work / "read" / f"{share.token}_{index}"
