"""Adds synthetic cases of rare classes to an nnU-Net dataset: all stages of ``difflung_augment``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_difflung.config import Settings
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.contents import check_same_content
from nnunet_difflung.dataset.logs import keep_log
from nnunet_difflung.dataset.privacy import as_private_as
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.dataset.reading import with_class_counts
from nnunet_difflung.errors import BadInput, Failed
from nnunet_difflung.generator.store import is_finished
from nnunet_difflung.injection.commit import half_done, journal, pending, read_journal, read_steadily, stamp
from nnunet_difflung.injection.inject import Addition, ensure_real_fingerprint, inject
from nnunet_difflung.injection.manifest import MANIFEST, read_manifest
from nnunet_difflung.injection.preconditions import check_recorded
from nnunet_difflung.lesions.contact import LungContact
from nnunet_difflung.meaning.labels import described
from nnunet_difflung.painting.cases import Synthesis, SynthesisResult
from nnunet_difflung.painting.preview import write_preview
from nnunet_difflung.paths import (
    PATH_VARIABLES,
    cache_folder,
    dataset_folder,
    fold_folder,
    nnunet_folder,
    results_folder,
)
from nnunet_difflung.pipeline.dry_run import conclude_dry_run, dry_run
from nnunet_difflung.pipeline.estimates import check_disk, check_disk_for_cache
from nnunet_difflung.pipeline.exclusion import unknown
from nnunet_difflung.pipeline.fold import (
    check_folds,
    note_unknown_spacing,
    prepare_folds,
    record_training_files,
    seconds_of_selection,
    synthesize_fold,
    train_fold,
)
from nnunet_difflung.pipeline.images import images_begun, look_at_images
from nnunet_difflung.pipeline.on_record import renew_report, report_path
from nnunet_difflung.pipeline.preflight import (
    begun_here,
    check_before_training,
    check_box,
    check_configuration,
    check_names,
    folds_to_do,
    nothing_left_on_fault,
    refuse_undertrained,
    wait_for_other_command,
    warn_of_geometry,
    warn_of_linked_datasets,
    warn_of_other_folds,
    warn_of_windows,
    warn_or_refuse_values,
    without_idle_options,
)
from nnunet_difflung.pipeline.report import (
    audit_and_advise,
    conclude,
    record_painted,
    record_stopped,
    run_entry,
    run_without_cases,
)
from nnunet_difflung.pipeline.request import Request
from nnunet_difflung.pipeline.roles import (
    warn_of_classes_on_border,
    warn_of_labels_outside_lung,
    warn_of_structures,
    with_present_roles,
)
from nnunet_difflung.preparing.fold import Fold, all_works, discard_works
from nnunet_difflung.runtime.files import write_bytes
from nnunet_difflung.runtime.launcher import join, leave
from nnunet_difflung.runtime.locks import delete_unused, working_alone
from nnunet_difflung.runtime.messages import note, report, say, spent, stage
from nnunet_difflung.runtime.share import Share
from nnunet_difflung.runtime.wording import collapsed
from nnunet_difflung.runtime.writable import is_writable
from nnunet_difflung.telling.folds import describe_fold, describe_nothing_to_add, describe_result
from nnunet_difflung.telling.next_commands import note_of_configuration
from nnunet_difflung.telling.scripts import report_estimate, report_plan, report_result
from nnunet_difflung.telling.selection import describe_cost

REPORT = "report.html"
"""The page about a method's cases, in the method's folder in ``$nnUNet_results``."""


@dataclass(frozen=True)
class OpenDataset:
    """A dataset and its manifest as they were when a command opened them.

    Attributes:
        raw: the dataset.
        manifest: manifest of its synthetic cases; None if it has none.
        manifest_stamp: stamp of the manifest's file, to see whether the file has been replaced since.
        folds: the requested folds that have no synthetic cases of the method yet.
        settings: the requested ones, without options that have no effect on its cases.
    """

    raw: RawDataset
    manifest: dict | None
    manifest_stamp: tuple[int, int] | None
    folds: list[int | str]
    settings: Settings

    def is_current(self) -> bool:
        """Whether no command has changed the dataset's synthetic cases since."""
        return stamp(self.raw.folder / MANIFEST) == self.manifest_stamp


def augment(request: Request) -> bool:
    """Runs all stages. After an interruption the same request resumes; stages that are finished are not repeated.

    Returns:
        Whether there is something new to report on, or no report yet, and this process speaks for all.

    Raises:
        BadInput: the request cannot be carried out; raised before any long computation.
        Failed: the gate dropped most cases, or the audit found a leak.
    """
    share = join(request.device)
    dataset = open_dataset(request, share.main)
    request = replace(request, settings=dataset.settings)
    lines = dataset.raw.reading.lines() if share.main else []
    for line in collapsed(lines):
        say(line, log=False)
    with as_private_as(dataset.raw.folder, dataset.raw.files()):
        _augment(dataset, request, share)
    new = bool(dataset.folds) or not _page_is_current(dataset.raw.name, request.settings.method)
    reported = share.main and not request.dry_run and new
    if lines and dataset.raw.reading.warning and not reported:  # what is far above may have scrolled away
        say(lines[0], log=False)
    return reported


def train(request: Request) -> list[Fold]:
    """Trains the generators of the request's folds, as ``augment`` does before it paints; adds nothing to the dataset.

    Generators that are finished stay as they are, and ``augment`` finds what was trained here. For one process.

    Raises:
        BadInput: the request cannot be carried out; raised before any long computation.
    """
    share = join(request.device)
    dataset = open_dataset(request)
    raw, request = dataset.raw, replace(request, settings=dataset.settings)
    with as_private_as(raw.folder, raw.files()), begun_here(cache_folder(raw.name), raw.folder) as delete:
        with nothing_left_on_fault(delete):
            folds = _prepare(raw, raw.folds(request.folds), request, share, {})
        folds[0].raw.reading.record(raw.name)
        with working_alone({fold.folder for fold in folds}, share), stage("training"):
            for fold in folds:
                train_fold(fold, request.device, request.save_every)
    return folds


def _augment(dataset: OpenDataset, request: Request, share: Share) -> None:
    raw, folds = dataset.raw, dataset.folds
    if share.main and not request.dry_run:
        _finish_interrupted(dataset, request)
    if not folds:
        if share.main:
            _say_nothing_to_do(raw, request)
        return
    if share.main:
        _introduce(raw)
        if missing := note_of_configuration(raw, request.configuration):
            note(missing)
        warn_of_other_folds(raw, dataset.manifest, folds, request.settings)
        warn_of_linked_datasets(raw)
    if request.dry_run:
        if share.main:
            dry_run(raw, folds, request)
        return
    with begun_here(cache_folder(raw.name), raw.folder) as delete:
        seconds: dict[str, float] = {}
        # if there are several processes, others may still write there; their launcher deletes it
        with nothing_left_on_fault(delete if share.number == 1 else lambda: None):
            prepared = _prepare(raw, folds, request, share, seconds)
        _carry_out(dataset, prepared, request, share, seconds)


def _page_is_current(name: str, method: str) -> bool:
    """Whether there is a page about a method's cases that was written after its report."""
    page, record = results_folder(name, method) / REPORT, report_path(name, method)
    return page.is_file() and not (record.is_file() and record.stat().st_mtime_ns > page.stat().st_mtime_ns)


def _finish_interrupted(dataset: OpenDataset, request: Request) -> None:
    """Does what a command that was interrupted after the injection has left undone, in the folds that need no cases."""
    raw, settings = dataset.raw, request.settings
    for number in set(raw.folds(request.folds)) - set(dataset.folds):
        own = fold_folder(raw.name, settings.method, number)
        if all_works(own) and is_writable(own):
            delete_unused(own, discard_works)
    renew_report(raw.name, settings.method, dataset.manifest)


def _say_nothing_to_do(raw: RawDataset, request: Request) -> None:
    """Says that the requested folds have their cases, audits the dataset and prints the next commands."""
    if not request.dry_run:
        keep_log(raw.name)
    say(f"{raw.name} already holds these synthetic cases; nothing to do.")
    report(folds=[])
    audit_and_advise(raw, raw.folds(request.folds), request)
    if request.dry_run:
        report_estimate(0.0, 0.0, 0, 0, request.device)
        conclude_dry_run(raw)


def raw_of(request: Request) -> RawDataset:
    """The dataset that a request describes.

    Raises:
        BadInput: it cannot be used as the request says.
    """
    return open_raw_dataset(
        request.dataset,
        request.normal_labels,
        request.structure_labels,
        request.patient_pattern,
        request.patients_file,
    )


def open_dataset(request: Request, thorough: bool = True) -> OpenDataset:
    """Opens the dataset and reads its manifest; finishes a change that was interrupted (a dry run refuses instead).

    Args:
        request: what to do.
        thorough: refuse all that would be refused after the training, which one of several processes does for all.

    Raises:
        BadInput: the dataset cannot be used as the request asks.
    """
    for variable in PATH_VARIABLES:
        nnunet_folder(variable)

    folder = dataset_folder(request.dataset)
    if request.dry_run and pending(folder):
        read_journal(journal(folder))
        raise half_done(folder)

    def read() -> OpenDataset:
        manifest_stamp, manifest = stamp(folder / MANIFEST), read_manifest(folder)
        try:
            raw = raw_of(request)
        except BadInput:
            check_recorded(folder, manifest)  # a cause that the reader cannot know, such as cases added since
            raise
        check_names(raw, request.settings)
        check_box(raw, request.settings)
        if thorough:
            check_configuration(raw, request.configuration)
        settings = without_idle_options(raw, request.settings, thorough)
        folds = folds_to_do(raw, with_present_roles(raw, manifest), request.folds, settings)
        if folds and thorough:
            check_before_training(raw, manifest, folds, settings.method)
        return OpenDataset(raw, manifest, manifest_stamp, folds, settings)

    dataset = read_steadily(folder, read, request.dry_run)
    if thorough:
        wait_for_other_command(dataset.raw, request.dry_run)
    return dataset


def _introduce(raw: RawDataset) -> None:
    say(
        f"{raw.name}: {len(raw.cases)} real cases of {len(set(raw.patients.values()))} patients"
        f"{', no splits_final.json, so new folds are grouped by patient' if raw.splits_are_new else ''}; "
        f"{described(raw.roles)}"
    )
    warn_of_structures(raw.roles)
    say(raw.reading.origin(), log=False)


def _prepare(
    raw: RawDataset, numbers: list[int | str], request: Request, share: Share, seconds: dict[str, float]
) -> list[Fold]:
    """Checks and caches the cases, makes folds if there are none, and plans each; records the ``seconds``."""
    with stage("checking cases", seconds):
        if share.main:
            check_disk_for_cache(raw)
        cache = build_cache(raw, cache_folder(raw.name), request.processes, share.main, share)
        raw = with_class_counts(raw, cache.facts)
        warn_or_refuse_values(raw, cache.facts, request.settings, share.main)
        check_same_content(raw, numbers)
    contact = LungContact(raw.roles)
    with images_begun(raw, cache, request.processes, share) as looked_at:
        with stage("planning", seconds):
            folds = prepare_folds(raw, numbers, request.settings, cache, contact, {}, share.main)
            if share.main:
                warn_of_labels_outside_lung(contact)
                warn_of_classes_on_border(folds)
            check_folds(folds)
            check_disk(folds)
        with stage("comparing images", seconds):
            look_at_images(raw, cache, numbers, looked_at, share, remember=True)
    return folds


def _carry_out(
    dataset: OpenDataset, folds: list[Fold], request: Request, share: Share, seconds: dict[str, float]
) -> None:
    """Shows the plan and runs the folds that still need synthetic cases."""
    raw = folds[0].raw
    if share.main:
        if raw.reading.source in ("pattern", "file") or not all(is_finished(fold.folder) for fold in folds):
            raw.reading.record(raw.name)  # before the first thing is made with it
        keep_log(raw.name)
        warn_of_geometry(raw, folds[0].cache.facts)
        warn_of_windows(raw, folds[0].cache, request.settings)
        note_unknown_spacing(folds)
        for fold in folds:
            say(describe_fold(fold))
            report_plan(fold)
    complete = [fold for fold in folds if not fold.plan.cases]
    folds = [fold for fold in folds if fold.plan.cases]
    if share.main:
        for fold in complete:
            say(describe_nothing_to_add(fold))
    if not folds:
        if share.main:
            record_painted(raw, [], complete, seconds, request)
            inject(raw, _empty(complete))
            conclude(raw, [], complete, seconds, request, None)
        return
    with working_alone({folder for fold in folds for folder in (fold.own_folder, fold.folder)}, share):
        if not dataset.is_current():  # another command may have added cases for these folds in the meantime
            wanted = [str(fold.number) for fold in folds]
            left = folds_to_do(raw, read_manifest(raw.folder), wanted, request.settings)
            folds = [fold for fold in folds if fold.number in left]
        if folds:
            _run(raw, folds, complete, request, share, seconds)
        elif share.main:
            say(f"Another command has added these synthetic cases to {raw.name} in the meantime; nothing to do.")
            inject(raw, _empty(complete))
            audit_and_advise(raw, raw.folds(request.folds), request)


def _run(
    raw: RawDataset,
    folds: list[Fold],
    complete: list[Fold],
    request: Request,
    share: Share,
    seconds: dict[str, float],
) -> None:
    """Trains, paints and injects ``folds``; the ``complete`` ones, to which nothing is added, are only recorded."""
    with stage("training", seconds):
        for fold in folds:  # all folds are trained before painting: long waits in a collective operation time out
            train_fold(fold, request.device, request.save_every)
        leave()
    done: list[tuple[Synthesis, SynthesisResult]] = []
    undertrained: Failed | None = None
    with stage("painting", seconds):
        for fold in folds:
            done.append(synthesize_fold(fold, request.device, share=share, threads=request.processes))
            if share.main:
                say(describe_result(fold, done[-1][1]))
                report_result(fold, done[-1][1])
                try:
                    refuse_undertrained(fold, done[-1][1], [each.number for each in folds])
                except Failed as error:
                    undertrained = error
                    break
    if undertrained:
        record_stopped(raw, *done[-1], seconds, request, str(undertrained))
        raise undertrained
    if not share.main:
        for fold in folds:
            write_bytes(_has_read(fold, share, share.index), b"")
        return
    dropped = {identifier for _, result in done for identifier in result.dropped}
    for line in unknown(request.settings.sampling.exclude, [fold.number for fold in folds], dropped):
        say(line)
    for name, took in seconds_of_selection(synthesis for synthesis, _ in done).items():
        spent(name, took, seconds)
    for line in describe_cost(seconds):
        say(line)
    preview = results_folder(raw.name, request.settings.method) / "preview.png"
    with stage("adding cases", seconds):
        shown = write_preview(done, preview)
        ensure_real_fingerprint(raw, request.processes)
        for fold in folds:
            record_training_files(fold)
        record_painted(raw, done, complete, seconds, request)
        additions = [(result.staged, run_entry(synthesis, result)) for synthesis, result in done] + _empty(complete)
        inject(raw, additions, None, request.processes)
        for fold in folds:
            share.wait_for(_has_read(fold, share, index) for index in range(1, share.number))
            discard_works(fold.own_folder)
    conclude(raw, done, complete, seconds, request, preview if shown else None)


def _empty(complete: list[Fold]) -> list[Addition]:
    """What is recorded of folds to which nothing had to be added, so that their trainers know it."""
    return [([], run_without_cases(fold)) for fold in complete]


def _has_read(fold: Fold, share: Share, index: int) -> Path:
    """File that a process writes when it no longer needs the painted cases, so that they can be deleted."""
    return fold.work / "read" / f"{share.token}_{index}"
