"""What ``difflung_augment --dry-run`` shows."""
from __future__ import annotations

from nnunet_difflung.augment_result import Request
from nnunet_difflung.augment_text import describe_fold, duration, size
from nnunet_difflung.fold import estimate_bytes, estimate_seconds, prepare_fold
from nnunet_difflung.preflight import check_disk, warn_of_orientation
from nnunet_difflung.raw_dataset import RawDataset
from nnunet_difflung.slices import check_cases


def dry_run(raw: RawDataset, folds: list[int | str], request: Request) -> None:
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
