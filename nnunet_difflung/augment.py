"""``difflung_augment``: from an nnU-Net dataset with a rare class to the same dataset with synthetic cases of it."""
from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from nnunet_difflung.audit import audit_dataset
from nnunet_difflung.augment_options import parse, settings_from
from nnunet_difflung.augment_text import describe_fold, describe_result, duration, next_commands, size
from nnunet_difflung.command_line import Failed, command, nnunet_folder
from nnunet_difflung.commit import recover
from nnunet_difflung.config import Settings
from nnunet_difflung.files import read_json, write_json
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
from nnunet_difflung.preflight import (
    check_disk,
    check_names,
    folds_to_do,
    nothing_left_on_fault,
    refuse_undertrained,
    warn_of_orientation,
)
from nnunet_difflung.preview import write_preview
from nnunet_difflung.processes import Share, leave, run_in_processes, share_of, started_by_launcher
from nnunet_difflung.raw_dataset import RawDataset, dataset_folder, open_raw_dataset
from nnunet_difflung.slices import build_cache, check_cases
from nnunet_difflung.staging import Synthesis, SynthesisResult, discard_work


@dataclass(frozen=True)
class Request:
    """A call of ``difflung_augment``.

    Attributes:
        dataset: id or name.
        folds: names of folds, empty for all of the split.
        settings: of generator, sampling and balance.
        configuration: nnU-Net configuration that is to be trained afterwards.
        device: ``cpu``, ``cuda`` or ``mps``.
        processes: for reading cases and nnU-Net's fingerprint.
        normal_label: name of the normal lung's label, or None.
        structure_labels: labels that are neither lung nor pathology.
        patient_pattern: regular expression, or None.
        save_every: seconds between checkpoints of the generator.
        dry_run: show the plan and touch nothing.
    """

    dataset: str
    folds: tuple[str, ...]
    settings: Settings
    configuration: str = "2d"
    device: str = "cpu"
    processes: int = 2
    normal_label: str | None = None
    structure_labels: tuple[str, ...] = ()
    patient_pattern: str | None = None
    save_every: float = 60.0
    dry_run: bool = False


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
            _audit_and_go_on(raw, raw.folds(request.folds), request)
        return
    if state.is_main_process:
        _introduce(raw)
    if request.dry_run:
        if state.is_main_process:
            _dry_run(raw, folds, request)
        return
    with nothing_left_on_fault(cache_folder(raw.name)):
        cache = build_cache(raw, cache_folder(raw.name), request.processes, state.is_main_process, share_of(state))
        lesions: dict = {}
        works = [prepare_fold(raw, fold, request.settings, cache.facts, cache.label, lesions) for fold in folds]
        for work in works:
            check_fold(work, cache)
        check_disk(works, cache.facts)
    if state.is_main_process:
        warn_of_orientation(raw, cache.facts)
        for work in works:
            print(describe_fold(work))
    works = [work for work in works if work.plan.cases]
    if not works:
        if state.is_main_process:
            print("Nothing to add: every pathology has its target share, or no lesion fits (see above).")
        return
    _run(raw, works, cache, request, share_of(state))


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


def _introduce(raw: RawDataset) -> None:
    print(f"{raw.name}: {len(raw.cases)} real cases of {len(set(raw.patients.values()))} patients"
          f"{', no splits_final.json: patient-grouped folds' if raw.splits_are_new else ''}; normal lung is "
          f"{raw.roles.normal!r}, pathologies are {', '.join(map(repr, raw.roles.pathologies))}")


def _run(raw: RawDataset, works: list[FoldWork], cache, request: Request, share: Share) -> None:
    seconds, done = {}, []
    begun = time.monotonic()
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
    inject(raw, [(result.staged, _run_entry(work, s, result)) for work, (s, result) in zip(works, done, strict=True)])
    for work in works:
        discard_work(work.work)
    seconds["inject"] = time.monotonic() - begun
    _conclude(raw, works, done, seconds, request, preview if shown else None)


def _conclude(raw: RawDataset, works: list[FoldWork], done: list[tuple[Synthesis, SynthesisResult]], seconds: dict,
              request: Request, preview: Path | None) -> None:
    """Report, audit and the commands to run next."""
    path = results_folder(raw.name, request.settings.generator.method) / "augment_report.json"
    earlier = read_json(path)["folds"] if path.is_file() else []
    rows = [{"fold": work.fold, "before": work.plan.before, "after": work.plan.after, "notes": work.plan.notes,
             "planned": len(work.plan.cases), "injected": len(result.staged), "repainted": result.repainted,
             "dropped": result.dropped, "quality": result.quality, "quality_of_all": result.quality_of_all,
             "memorisation": result.memorisation,
             "seconds_of_all_folds_together": seconds} for work, (_, result) in zip(works, done, strict=True)]
    kept = [row for row in earlier if row["fold"] not in [new["fold"] for new in rows]]
    write_json(path, {"settings": request.settings.as_dict(), "folds": [*kept, *rows]})
    if preview:
        print(f"\nLook at {preview} before you go on.")
    _audit_and_go_on(raw, [work.fold for work in works], request)


def _audit_and_go_on(raw: RawDataset, folds: list[int | str], request: Request) -> None:
    """Proves fold-locking from the files, then says what to run next.

    Raises:
        Failed: the audit found a leak.
    """
    leaks = audit_dataset(raw.name, deep=True)
    if leaks:
        raise Failed("the audit found: " + "; ".join(leaks[:3]) + f" (difflung_audit -d {raw.name} lists all)")
    print(f"Audit: no validation case or patient is behind any synthetic case of {raw.name}.")
    print(next_commands(raw, request.configuration, request.settings.generator.method, folds, request.device))


def _run_entry(work: FoldWork, s: Synthesis, result: SynthesisResult) -> dict:
    return {"method": s.method, "fold": s.fold, "settings": work.settings.as_dict(),
            "generator": {"hash": s.generator.hash or None, "folder": os.path.relpath(
                s.generator.folder, nnunet_folder("nnUNet_results")),
                "training_cases": list(s.generator.training_cases)},
            "summary": {"planned": len(work.plan.cases), "injected": len(result.staged),
                        "dropped": sorted(result.dropped), "quality": result.quality,
                        "memorisation": result.memorisation, "targets": work.plan.targets,
                        "voxels_before": work.plan.before, "voxels_planned": work.plan.after}}


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
        _open(request)  # what is wrong is told once
        return run_in_processes(options.num_gpus, arguments or sys.argv[1:], options.device)
    augment(request)
    sys.stdout.flush()
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
