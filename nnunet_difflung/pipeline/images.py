"""Before any training: whether the images of a fold's validation patients are in its training under another name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from nnunet_difflung.audit.image_check import METHOD, CasePair, ImageCheck, Slice, compare_slices, looking_at
from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.splits import real_only
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import cache_folder, dataset_id
from nnunet_difflung.runtime.files import json_bytes, read_json, write_json
from nnunet_difflung.runtime.messages import warn
from nnunet_difflung.runtime.share import Share

_MEMO = ".images.json"  # in the cache's folder; no case id begins with a dot
_FORMAT = 1

Looked = Iterator[list[Slice]] | ImageCheck


@contextmanager
def images_begun(
    raw: RawDataset,
    cache: SliceCache,
    processes: int,
    share: Share,
    slices_of_cases: Mapping[str, list[Slice]] = MappingProxyType({}),
) -> Iterator[Looked | None]:
    """Begins to look at the images of the cases; of many images, other processes do it while the caller goes on.

    Args:
        raw: the dataset, its classes counted.
        cache: its cases.
        processes: number of processes.
        share: this process; the first one looks at the images for all.
        slices_of_cases: case id → its slices, if the images of all cases have been looked at.

    Yields:
        what ``look_at_images`` takes: the slices of the cases; what was found when the same content was looked at
        before; or None where another process looks.
    """
    known = _remembered(raw, cache) if share.main else None
    if known is not None or not share.main:
        yield known
        return
    if slices_of_cases:
        yield (slices_of_cases[identifier] for identifier in sorted(raw.cases))
        return
    single_slices = all(facts.shape[0] == 1 for facts in cache.facts.values())
    with looking_at({i: cache.reader(i) for i in raw.cases}, processes, single_slices) as slices:
        yield slices


def look_at_images(
    raw: RawDataset,
    cache: SliceCache,
    numbers: Sequence[int | str],
    looked_at: Looked | None,
    share: Share,
    remember: bool,
) -> None:
    """Warns of validation cases that look like training cases of another patient.

    Args:
        raw: the dataset, its classes counted.
        cache: its cases.
        numbers: the wanted folds.
        looked_at: from ``images_begun``.
        share: this process.
        remember: whether the result may be written into the cache's folder.

    Raises:
        BadInput: a wanted fold has the same voxels in training and in validation under two ids.
    """
    if looked_at is None or isinstance(looked_at, ImageCheck):
        check = looked_at
    else:
        check = compare_slices(sorted(raw.cases), looked_at, _real_splits(raw))
        if remember:
            write_json(_memo(raw), {"format": _FORMAT, "key": _key(raw, cache), **check.as_dict()})
    while check is None:
        share.wait_until(lambda: _remembered(raw, cache))
        check = _remembered(raw, cache)
    for pair in check.identical:
        if set(pair.folds) & set(numbers):
            raise BadInput(_refusal(raw, pair))
    if share.main:
        print_suspicion(raw, check)


def suspicion(raw: RawDataset, cache: SliceCache, shown: bool = True) -> dict | None:
    """What ``look_at_images`` has found, for the report, with a warning if ``shown``; None if it has not looked."""
    check = _remembered(raw, cache)
    if check is None:
        return None
    if shown:
        print_suspicion(raw, check)
    return {
        "suspicious_pairs_of_cases": len(check.pairs),
        "most_similar": [pair.line for pair in check.pairs[:20]],
        "judged": check.judged(),
        "framed": check.framed,
    }


def print_suspicion(raw: RawDataset, check: ImageCheck) -> None:
    """At most three lines on stderr; none if there is no suspicion."""
    if not check.pairs:
        return
    number = len({(pair.training, pair.validation) for pair in check.pairs})
    warn(
        f"{number} pair{'s' if number > 1 else ''} of cases in training and validation of {raw.name} may "
        f"show the same patient, though the ids say otherwise:\n"
        f"  {check.pairs[0].line}\n"
        f"  difflung_audit -d {dataset_id(raw.name)} --images shows them side by side; if they are the same patient, "
        f"{_remedy(raw)}"
    )


def _remedy(raw: RawDataset) -> str:
    if raw.splits_are_new:
        return "say with --patients FILE (columns case,patient) that they belong to one patient"
    return "put both on the same side of every fold in splits_final.json"


def _refusal(raw: RawDataset, pair: CasePair) -> str:
    return (
        f"in fold {pair.folds[0]} of {raw.name}, the training case {pair.training} and the validation case "
        f"{pair.validation} hold the same voxels; remove one of the two cases, or {_remedy(raw)}"
    )


def _memo(raw: RawDataset) -> Path:
    return cache_folder(raw.name) / _MEMO


def _key(raw: RawDataset, cache: SliceCache) -> str:
    """Hash of all that the result depends on: the images, which of their slices are compared, the folds, the method."""
    contents = {i: [facts.content, *(round(mm, 4) for mm in facts.spacing)] for i, facts in cache.facts.items()}
    return hashlib.sha256(json_bytes([METHOD, sorted(contents.items()), _real_splits(raw)])).hexdigest()


def _real_splits(raw: RawDataset) -> list[dict[str, list[str]]]:
    return [{side: sorted(cases) for side, cases in split.items()} for split in real_only(raw.splits)]


def _remembered(raw: RawDataset, cache: SliceCache) -> ImageCheck | None:
    """The result of an earlier look at the same content, if there was one."""
    try:
        content = read_json(_memo(raw))
        current = content.pop("format") == _FORMAT and content.pop("key") == _key(raw, cache)
        return ImageCheck.of(content) if current else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
