"""``difflung_augment --dry-run``: shows the plan and the time and disk space that it needs; writes nothing."""

from __future__ import annotations

from nnunet_difflung.dataset.cache import are_small
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.reading import with_class_counts
from nnunet_difflung.generator.store import is_finished
from nnunet_difflung.pipeline.estimates import check_disk, check_disk_for_cache, estimate_bytes, estimate_seconds
from nnunet_difflung.pipeline.first_look import FirstLook, Look
from nnunet_difflung.pipeline.fold import check_folds
from nnunet_difflung.pipeline.images import images_begun, look_at_images
from nnunet_difflung.pipeline.planning import plan_folds, readable_cases
from nnunet_difflung.pipeline.request import Request
from nnunet_difflung.runtime.messages import report, say, stage
from nnunet_difflung.runtime.share import Share
from nnunet_difflung.runtime.wording import counted, duration, size
from nnunet_difflung.telling.folds import describe_fold, describe_nothing_to_add
from nnunet_difflung.telling.scripts import report_estimate, report_plan


def dry_run(raw: RawDataset, numbers: list[int | str], request: Request) -> None:
    """Shows the class tables, deficits, plan, time and disk space of folds; writes nothing.

    Raises:
        BadInput: the command itself would refuse the request.
    """
    looks: dict[str, Look] = {}
    with stage("checking cases"):
        if not are_small(raw):  # reading takes minutes
            check_disk_for_cache(raw)
        cases = readable_cases(raw, request.processes, look=FirstLook(raw.roles), looks=looks)
        to_be_cached = check_disk_for_cache(raw, cases.facts)
        raw = with_class_counts(raw, cases.facts)
    lesions = {identifier: look.lesions for identifier, look in looks.items()}
    slices = {identifier: look.slices for identifier, look in looks.items()}
    with images_begun(raw, cases, request.processes, Share(), slices) as looked_at:
        with stage("planning"):
            folds = plan_folds(raw, numbers, cases, request.settings, lesions=lesions)
            for fold in folds:
                say(describe_fold(fold))
                report_plan(fold)
            check_folds(folds)
            check_disk(folds, to_be_cached)
        with stage("comparing images"):
            look_at_images(raw, cases, numbers, looked_at, Share(), remember=False)
    for fold in folds:
        if not fold.plan.cases:
            say(describe_nothing_to_add(fold))
    folds = [fold for fold in folds if fold.plan.cases]
    if not folds:
        report_estimate(0.0, 0.0, to_be_cached, to_be_cached, request.device)
    else:
        with stage("timing"):
            estimated = estimate_seconds(folds[0], request.device, cases.label)
        trained = sum(bool(fold.method.generator) and is_finished(fold.folder) for fold in folds)
        training, painting = (len(folds) - trained) * estimated[0], len(folds) * estimated[1]
        disk = sum(sum(estimate_bytes(fold)) for fold in folds) + to_be_cached
        known = f" ({trained} trained already)" if trained else ""
        report_estimate(training, painting, disk, to_be_cached, request.device)
        say(
            f"\nEstimate on {request.device}: {duration(training)} of training and {duration(painting)} of painting "
            f"for {counted(len(folds), 'fold')}{known}; up to {size(disk)} of disk space"
            + (f", {size(to_be_cached)} of it for cached cases." if to_be_cached else ".")
        )
        if request.device == "cpu" and request.settings.preset != "fast" and training > 3600:
            say("On a CPU, --preset fast trains a small network in minutes (for small images and first looks).")
    conclude_dry_run(raw)


def conclude_dry_run(raw: RawDataset) -> None:
    """Says and reports that nothing was written."""
    report(dataset=raw.name, dry_run=True)
    say("Dry run: nothing was written.")
