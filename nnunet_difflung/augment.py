"""``difflung_augment``: from an nnU-Net dataset with a rare class to the same dataset with synthetic cases of it."""
from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from nnunet_difflung.audit import audit_dataset
from nnunet_difflung.augment_options import parse, settings_from
from nnunet_difflung.augment_text import (
    describe_fold,
    describe_result,
    duration,
    next_commands,
    size,
)
from nnunet_difflung.command_line import BadInput, Failed, command, nnunet_folder
from nnunet_difflung.commit import recover
from nnunet_difflung.config import Settings
from nnunet_difflung.files import write_json
from nnunet_difflung.fold import (
    FoldWork,
    cache_folder,
    estimate_bytes,
    estimate_seconds,
    prepare_fold,
    results_folder,
    synthesize_fold,
)
from nnunet_difflung.inject import ensure_real_fingerprint, inject
from nnunet_difflung.manifest import read_manifest
from nnunet_difflung.preview import write_preview
from nnunet_difflung.raw_dataset import RawDataset, dataset_folder, open_raw_dataset
from nnunet_difflung.slices import CaseFacts, build_cache, check_cases
from nnunet_difflung.synthesize import Synthesis, SynthesisResult, discard_work
from nnunet_difflung.train import check_generator_folder, train_generator


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
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        nnunet_folder(variable)
    folder = dataset_folder(request.dataset)
    if not request.dry_run:
        recover(folder)
    raw = open_raw_dataset(request.dataset, request.normal_label, request.structure_labels, request.patient_pattern)
    _check_names(raw, request.settings)
    folds = _folds_to_do(raw, request)
    if not folds:
        print(f"{raw.name} already holds these synthetic cases; nothing to do.")
        return
    print(f"{raw.name}: {len(raw.cases)} real cases of {len(set(raw.patients.values()))} patients"
          f"{', no splits_final.json: patient-grouped folds' if raw.splits_are_new else ''}; normal lung is "
          f"{raw.roles.normal!r}, pathologies are {', '.join(map(repr, raw.roles.pathologies))}")
    if request.dry_run:
        _dry_run(raw, folds, request)
        return
    state = PartialState(cpu=request.device == "cpu")
    with _nothing_left_on_fault(cache_folder(raw.name)):
        with state.main_process_first():
            cache = build_cache(raw, cache_folder(raw.name), request.processes)
        works = [prepare_fold(raw, fold, request.settings, cache.facts, cache.label) for fold in folds]
        for work in works:
            check_generator_folder(work.data(cache), request.settings.generator, work.folder)
        _check_disk(works, cache.facts)
    _warn_of_orientation(raw, cache.facts)
    if state.is_main_process:
        for work in works:
            print(describe_fold(work))
    works = [work for work in works if work.plan.cases]
    if not works:
        print("Nothing to add: every pathology has its target share, or no lesion fits (see above).")
        return
    _run(raw, works, cache, request, state)


def _run(raw: RawDataset, works: list[FoldWork], cache, request: Request, state: PartialState) -> None:
    seconds, done = {"train": 0.0, "paint": 0.0, "inject": 0.0}, []
    for work in works:
        begun = time.monotonic()
        train_generator(work.data(cache), request.settings.generator, work.folder, request.device,
                        save_every=request.save_every)
        seconds["train"] += time.monotonic() - begun
        if not state.is_main_process:
            continue
        begun = time.monotonic()
        done.append(synthesize_fold(work, cache, request.device))
        seconds["paint"] += time.monotonic() - begun
        print(describe_result(work, done[-1][1]))
        _refuse_undertrained(work, done[-1][1])
    if not state.is_main_process:
        return
    begun = time.monotonic()
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
    """Audit, report and the commands to run next."""
    leaks = audit_dataset(raw.name, deep=True)
    write_json(results_folder(raw.name, request.settings.generator.method) / "augment_report.json", {
        "settings": request.settings.as_dict(), "seconds": seconds, "leaks": leaks, "folds": [
            {"fold": work.fold, "before": work.plan.before, "after": work.plan.after, "notes": work.plan.notes,
             "planned": len(work.plan.cases), "injected": len(result.staged), "repainted": result.repainted,
             "dropped": result.dropped, "quality": result.quality, "quality_of_all": result.quality_of_all}
            for work, (_, result) in zip(works, done, strict=True)]})
    if leaks:
        raise Failed("the audit found leaks: " + "; ".join(leaks[:3]) + f" (difflung_audit -d {raw.name})")
    print(f"\nAudit: no validation case or patient is behind any synthetic case of folds "
          f"{', '.join(str(work.fold) for work in works)}.")
    if preview:
        print(f"Look at {preview} before you go on.")
    print(next_commands(raw, request.configuration, request.settings.generator.method,
                        [work.fold for work in works], request.device))


def _run_entry(work: FoldWork, s: Synthesis, result: SynthesisResult) -> dict:
    return {"method": s.method, "fold": s.fold, "settings": work.settings.as_dict(),
            "generator": {"hash": s.generator.hash, "folder": os.path.relpath(
                s.generator.folder, nnunet_folder("nnUNet_results")),
                "training_cases": list(s.generator.training_cases)},
            "summary": {"planned": len(work.plan.cases), "injected": len(result.staged),
                        "dropped": sorted(result.dropped), "quality": result.quality, "targets": work.plan.targets,
                        "voxels_before": work.plan.before, "voxels_planned": work.plan.after}}


def _check_names(raw: RawDataset, settings: Settings) -> None:
    windows = settings.generator.windows
    if windows and len(windows) != len(raw.channels):
        raise BadInput(f"--window has {len(windows)} pairs, but {raw.name} has {len(raw.channels)} channel(s): "
                       f"{', '.join(raw.channels)}; give one LOW,HIGH for each")
    for name in settings.balance.target_share:
        if name not in raw.roles.pathologies:
            raise BadInput(f"--target-share names {name!r}, which is no pathology of {raw.folder / 'dataset.json'}: "
                           f"{', '.join(raw.roles.pathologies)}")


def _warn_of_orientation(raw: RawDataset, facts: dict[str, CaseFacts]) -> None:
    """Says where nnU-Net's 2d configuration would cut slices into lines: it cuts across the largest spacing."""
    odd = [f for f in facts.values() if f.shape[0] == 1 and f.spacing[0] < max(f.spacing[1:])]
    if odd:
        print(f"Warning: {odd[0].identifier} and {len(odd) - 1} other single slices of {raw.name} have a spacing along "
              f"z ({odd[0].spacing[0]:g} mm) below that of their pixels ({max(odd[0].spacing[1:]):g} mm), so nnU-Net "
              f"will take another axis for the slice axis and train on patches one pixel wide; write a larger z "
              f"spacing into the files", file=sys.stderr)


def _folds_to_do(raw: RawDataset, request: Request) -> list[int | str]:
    """Folds that have no cases of this method yet.

    Raises:
        BadInput: a fold has cases of this method that were made with other settings.
    """
    manifest, folds = read_manifest(raw.folder), raw.folds(request.folds)
    method = request.settings.generator.method
    known = {run["fold"]: run for run in manifest["runs"] if run["method"] == method} if manifest else {}
    for fold in folds:
        if fold in known and known[fold]["settings"] != request.settings.as_dict():
            raise BadInput(f"{raw.name} already holds synthetic cases of method {method} for fold {fold}, made with "
                           f"other settings (see {raw.folder / 'difflung_manifest.json'}); run difflung_remove -d "
                           f"{raw.name} first, or repeat the earlier settings")
    return [fold for fold in folds if fold not in known]


@contextmanager
def _nothing_left_on_fault(folder: Path) -> Iterator[None]:
    """Deletes a cache that was begun in this block, if the block ends with ``BadInput``."""
    existed = [path for path in (folder, folder.parent) if path.exists()]
    try:
        yield
    except BadInput:
        for path in (folder, folder.parent):
            if path not in existed and path.is_dir() and (path == folder or not any(path.iterdir())):
                shutil.rmtree(path)
        raise


def _refuse_undertrained(work: FoldWork, result: SynthesisResult) -> None:
    if len(result.staged) < 0.5 * len(work.plan.cases):
        rows = [f"{name} bias {row['bias']:+.0f}" for name, row in result.quality_of_all.items()]
        raise Failed(f"fold {work.fold}: the gate dropped {len(work.plan.cases) - len(result.staged)} of "
                     f"{len(work.plan.cases)} cases ({', '.join(rows)}): the generator is under-trained, nothing was "
                     f"injected. Raise --epochs (now {work.settings.generator.epochs}), look at "
                     f"{work.folder / 'samples'}, or inject all the same with --gate report")


def _check_disk(works: list[FoldWork], facts) -> None:
    needs = [estimate_bytes(work, facts) for work in works]
    for variable, need in (("nnUNet_raw", sum(n[0] for n in needs)), ("nnUNet_results", sum(n[1] for n in needs))):
        free = shutil.disk_usage(nnunet_folder(variable)).free
        if need > free:
            raise BadInput(f"{variable}={nnunet_folder(variable)} has {size(free)} free, but the plan may need "
                           f"{size(need)}; free some space, or lower --max-synthetic")


def _dry_run(raw: RawDataset, folds: list[int | str], request: Request) -> None:
    """Shows class tables, deficits, plan, time and disk; writes nothing."""
    facts = check_cases(raw, request.processes)
    _warn_of_orientation(raw, facts)

    def read_label(identifier: str):
        return raw.read_label(identifier)[0]

    works = [prepare_fold(raw, fold, request.settings, facts, read_label) for fold in folds]
    for work in works:
        print(describe_fold(work))
    _check_disk(works, facts)
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
    augment(Request(
        dataset=options.d, folds=tuple(options.f or ()), settings=settings_from(options), configuration=options.c,
        device=options.device, processes=options.np, normal_label=options.normal_label,
        structure_labels=tuple(options.structure_label), patient_pattern=options.patient_pattern,
        save_every=options.save_every, dry_run=options.dry_run))
    sys.stdout.flush()
    return 0


entry = command(main)

if __name__ == "__main__":
    entry()
