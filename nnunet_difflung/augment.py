"""``difflung_augment``: from an nnU-Net dataset with a rare class to the same dataset with synthetic cases of it."""
from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from accelerate import PartialState

from nnunet_difflung.augment_options import parse
from nnunet_difflung.augment_result import Request, audit_and_go_on, conclude, run_entry
from nnunet_difflung.augment_settings import settings_from
from nnunet_difflung.augment_text import describe_fold, describe_result, duration, size
from nnunet_difflung.command_line import command, nnunet_folder
from nnunet_difflung.commit import recover
from nnunet_difflung.fold import (
    FoldWork,
    cache_folder,
    check_fold,
    estimate_bytes,
    estimate_seconds,
    prepare_fold,
    results_folder,
    synthesize_fold,
    train_fold,
)
from nnunet_difflung.inject import ensure_real_fingerprint, inject
from nnunet_difflung.lock import working_alone
from nnunet_difflung.manifest import read_manifest
from nnunet_difflung.preflight import (
    check_disk,
    check_names,
    folds_to_do,
    nothing_left_on_fault,
    refuse_undertrained,
    warn_of_orientation,
    what_is_new,
)
from nnunet_difflung.preview import write_preview
from nnunet_difflung.processes import Share, leave, run_in_processes, share_of, started_by_launcher
from nnunet_difflung.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.raw_layout import dataset_folder
from nnunet_difflung.slices import SliceCache, build_cache, check_cases
from nnunet_difflung.staging import discard_work
from nnunet_difflung.train import check_batch


def augment(request: Request) -> None:
    """Runs all stages; the same request goes on where an interrupted one stopped, and does nothing twice.

    Raises:
        BadInput: before any computing.
        Failed: the gate dropped most cases, or the audit found a leak.
    """
    state = PartialState(cpu=request.device == "cpu")
    raw, folds = _open(request)
    if not folds:
        if state.is_main_process:
            print(f"{raw.name} already holds these synthetic cases; nothing to do.")
            audit_and_go_on(raw, raw.folds(request.folds), request)
        return
    if state.is_main_process:
        _introduce(raw)
    if request.dry_run:
        if state.is_main_process:
            _dry_run(raw, folds, request)
        return
    share, seconds = share_of(state), {}
    cache, works = _prepare(raw, folds, request, share, seconds)
    if state.is_main_process:
        warn_of_orientation(raw, cache.facts)
        for work in works:
            print(describe_fold(work))
    works = [work for work in works if work.plan.cases]
    if not works:
        if state.is_main_process:
            print("Nothing to add: every pathology has its target share, or no lesion fits (see above).")
        return
    with working_alone({folder for work in works for folder in (work.own_folder, work.folder)}, share):
        manifest = read_manifest(raw.folder)  # another command may have done these folds while this one waited
        known = {run["fold"] for run in manifest["runs"] if run["method"] == works[0].method.name} if manifest else ()
        works = [work for work in works if work.fold not in known]
        if works:
            _run(raw, works, cache, request, share, seconds)
        elif share.main:
            print(f"Meanwhile another command has added these cases to {raw.name}; nothing to do.")


def _open(request: Request) -> tuple[RawDataset, list[int | str]]:
    """The dataset, and the folds that have no such cases yet; finishes a change that was interrupted."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        nnunet_folder(variable)
    folder = dataset_folder(request.dataset)
    if not request.dry_run:
        recover(folder)
    raw = open_raw_dataset(request.dataset, request.normal_label, request.structure_labels, request.patient_pattern)
    check_names(raw, request.settings)
    return raw, folds_to_do(raw, request.folds, request.settings)


def _prepare(raw: RawDataset, folds: list[int | str], request: Request, share: Share,
             seconds: dict[str, float]) -> tuple[SliceCache, list[FoldWork]]:
    """Checks and caches the cases and plans every fold; notes in ``seconds`` what took how long."""
    begun, lesions = time.monotonic(), {}
    with nothing_left_on_fault(cache_folder(raw.name), share):
        cache = build_cache(raw, cache_folder(raw.name), request.processes, share.main, share)
        seconds["cache"], begun = time.monotonic() - begun, time.monotonic()
        works = [prepare_fold(raw, fold, request.settings, cache.facts, cache.label, lesions) for fold in folds]
        for work in works:
            check_fold(work, cache)
        check_disk(works, cache.facts)
    seconds["plan"] = time.monotonic() - begun
    return cache, works


def _introduce(raw: RawDataset) -> None:
    print(f"{raw.name}: {len(raw.cases)} real cases of {len(set(raw.patients.values()))} patients"
          f"{', no splits_final.json: patient-grouped folds' if raw.splits_are_new else ''}; normal lung is "
          f"{raw.roles.normal!r}, pathologies are {', '.join(map(repr, raw.roles.pathologies))}")


def _run(raw: RawDataset, works: list[FoldWork], cache: SliceCache, request: Request, share: Share,
         seconds: dict[str, float]) -> None:
    done, begun = [], time.monotonic()
    for work in works:  # all folds are trained before the first is painted: nobody waits long in a collective
        train_fold(work, cache, request.device, request.save_every)
    leave()
    seconds["train"] = time.monotonic() - begun
    begun = time.monotonic()
    for work in works:
        done.append(synthesize_fold(work, cache, request.device, share=share))
        if share.main:
            print(describe_result(work, done[-1][1]))
            refuse_undertrained(work, done[-1][1])
    if not share.main:
        return
    seconds["paint"], begun = time.monotonic() - begun, time.monotonic()
    preview = results_folder(raw.name, request.settings.generator.method) / "preview.png"
    shown = write_preview(done, preview)
    ensure_real_fingerprint(raw, request.processes)
    inject(raw, [(result.staged, run_entry(work, s, result)) for work, (s, result) in zip(works, done, strict=True)])
    for work in works:
        discard_work(work.work)
    seconds["inject"] = time.monotonic() - begun
    conclude(raw, works, done, seconds, request, preview if shown else None)


def _dry_run(raw: RawDataset, folds: list[int | str], request: Request) -> None:
    """Shows class tables, deficits, plan, time and disk; writes nothing."""
    facts = check_cases(raw, request.processes)
    warn_of_orientation(raw, facts)

    def read_label(identifier: str):
        return raw.read_label(identifier)[0]

    lesions: dict = {}
    works = [prepare_fold(raw, fold, request.settings, facts, read_label, lesions) for fold in folds]
    for work in works:
        print(describe_fold(work))
    check_disk(works, facts)
    working = [work for work in works if work.plan.cases]
    if working:
        training, painting = estimate_seconds(working[0], facts, request.device)
        disk = sum(sum(estimate_bytes(work, facts)) for work in working)
        print(f"\nEstimate on {request.device}: {duration(training * len(working))} of training and "
              f"{duration(painting * len(working))} of painting for {len(working)} fold(s); up to {size(disk)} of "
              f"disk.")
        if request.device == "cpu" and request.settings.preset != "fast" and training * len(working) > 3600:
            print("On a CPU, --preset fast trains a small network in minutes (for small images and first looks).")
    print("Dry run: nothing was written.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    options = parse(arguments)
    request = Request(
        dataset=options.d, folds=tuple(options.f or ()), settings=settings_from(options), configuration=options.c,
        device=options.device, processes=options.np, normal_label=options.normal_label,
        structure_labels=tuple(options.structure_label), patient_pattern=options.patient_pattern,
        save_every=options.save_every, dry_run=options.dry_run)
    if options.num_gpus > 1 and not started_by_launcher() and not options.dry_run:
        raw, _ = _open(request)  # what is wrong is told once
        check_batch(request.settings.generator, options.num_gpus)
        clean_up = what_is_new(cache_folder(raw.name))
        code = run_in_processes(options.num_gpus, arguments or sys.argv[1:], options.device)
        if code == 2:
            clean_up()
        return code
    augment(request)
    sys.stdout.flush()
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
