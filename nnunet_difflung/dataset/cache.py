"""The checked cases of a dataset as a cache of memory-mapped arrays, from which training examples are cropped.

The cache stores each case as two .npy files in the dataset's own intensities (as integers if that is exact). So it can
be used for every fold and window, and a training step reads only the crops that it needs.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from nnunet_difflung.dataset.contents import MEMO, FileHashes, hashes_of_case
from nnunet_difflung.dataset.headers import shape_and_bytes
from nnunet_difflung.dataset.layout import Case
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.reading import (
    CaseFacts,
    body_is_above_hu,
    is_ct,
    judged_channels,
    read_case,
    source_stamp,
)
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.intensities import Judgement
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.runtime.arrays import mapped
from nnunet_difflung.runtime.files import (
    Replacements,
    check_format,
    discard_all,
    json_bytes,
    new_token,
    read_json,
    replacing,
)
from nnunet_difflung.runtime.parallel import bar, in_threads
from nnunet_difflung.runtime.share import Share
from nnunet_difflung.runtime.workers import in_processes

_LATER = (
    "files",
    "judged",
    "directions",
    "blank",
)  # facts that are kept apart, so that earlier versions can read an entry
_TURNING = "Reorient"  # in the names of nnU-Net's readers that turn the axes
_WORTH_CASES, _WORTH_BYTES = 300, 2**27  # reading less takes hardly longer than starting processes
_SMALL = 2**20  # bytes of the files of a case; a process takes several smaller cases at a time
_AT_A_TIME = 8
_FORMAT = 1  # format number of an entry's JSON; the number in _roles_key is older and has nothing to do with it


ImageReader = Callable[[], tuple[np.ndarray, float]]  # → (c, z, y, x) and the spacing along z in mm
Look = Callable[["CaseFacts", np.ndarray, np.ndarray], Any]  # at facts, image (c, z, y, x) and condition map (z, y, x)


def _stored_image(file: Path, spacing: float) -> tuple[np.ndarray, float]:
    return mapped(file), spacing


def image_in_memory(image: np.ndarray, spacing: float) -> tuple[np.ndarray, float]:
    """An ``ImageReader`` of an array; it lies here because worker processes import the module of what they call."""
    return image, spacing


class SliceCache:
    """Checked cases of a dataset as memory-mapped arrays in a folder."""

    def __init__(self, folder: Path, facts: dict[str, CaseFacts], roles: LabelRoles):
        self.folder, self.facts, self.roles = folder, facts, roles

    def image(self, identifier: str) -> np.ndarray:
        """(c, z, y, x) memory map in the dataset's own intensities."""
        return mapped(self.folder / f"{identifier}.image.npy")

    def reader(self, identifier: str) -> ImageReader:
        """Reads a case's image; another process may call it."""
        return partial(_stored_image, self.folder / f"{identifier}.image.npy", self.facts[identifier].spacing[0])

    def condition(self, identifier: str) -> np.ndarray:
        """(z, y, x) uint8 memory map: label values, and ``roles.body_value`` for the derived body class."""
        return mapped(self.folder / f"{identifier}.condition.npy")

    def label(self, identifier: str) -> np.ndarray:
        """(z, y, x) uint8 label values without the derived body class."""
        condition = np.array(self.condition(identifier))
        condition[condition == self.roles.body_value] = 0
        return condition


def check_cases(
    raw: RawDataset,
    processes: int = 1,
    progress: bool = True,
    keep: Callable[[str, np.ndarray, np.ndarray], None] | None = None,
    most: int = 2**29,
    look: Look | None = None,
    looks: dict[str, Any] | None = None,
) -> dict[str, CaseFacts]:
    """Reads and checks every real case; writes nothing.

    Args:
        raw: the dataset.
        processes: number of processes that read cases; threads where there are few cases.
        progress: show a progress bar.
        keep: gets the id, image (c, z, y, x) and condition map (z, y, x) of the first cases.
        most: bytes of the arrays that ``keep`` gets, as far as all cases are as large as the first one.
        look: called for each case by the process or thread that has read it.
        looks: case id → what ``look`` returned; filled here.

    Raises:
        BadInput: the first fault.
    """
    facts, cases = {}, list(raw.cases.values())
    kept = 0 if keep is None else most // max(1, _cached_bytes(raw, cases[0]))
    with _read_by(_Reading(raw, look=look), cases, processes, kept) as results:
        for read in bar(results, visible=progress, total=len(raw.cases), desc="checking cases", unit="case"):
            facts[read.facts.identifier] = read.facts
            if looks is not None:
                looks[read.facts.identifier] = read.seen
            if keep is not None and read.arrays is not None:
                keep(read.facts.identifier, *read.arrays)
    return facts


@dataclass(frozen=True)
class _ReadCase:
    """A case that was read and checked.

    Attributes:
        facts: of the case.
        hashed: what of its files may be remembered (``FileHashes.hashed``).
        files: its arrays, written but not in place; None if they were not to be written.
        arrays: image and condition map; None if they were not asked for.
        seen: what ``_Reading.look`` returned.
    """

    facts: CaseFacts
    hashed: dict[str, list]
    files: Replacements | None
    arrays: tuple[np.ndarray, np.ndarray] | None
    seen: Any


@dataclass(frozen=True)
class _Reading:
    """Reads and checks a case, in any thread or process.

    Attributes:
        raw: the dataset.
        folder: of the cache, into which the arrays are written; None writes nothing.
        token: of the temporary files there.
        look: what else is done with the case while it is in memory.
    """

    raw: RawDataset
    folder: Path | None = None
    token: str = ""
    look: Look | None = None

    def __call__(self, item: tuple[Case, bool]) -> _ReadCase:
        """Takes a case, and whether to return its arrays.

        Raises:
            BadInput: the case has a fault.
            OSError: it cannot be written.
        """
        case, returned = item
        hashes = FileHashes()
        image, condition, facts = _read(self.raw, case, hashes)
        files = None if self.folder is None else self._written(facts.identifier, image, condition)
        seen = None if self.look is None else self.look(facts, image, condition)
        return _ReadCase(facts, hashes.hashed(), files, (image, condition) if returned else None, seen)

    def _written(self, identifier: str, image: np.ndarray, condition: np.ndarray) -> Replacements:
        assert self.folder is not None
        files = Replacements(self.token)
        try:
            for name, array in (("image", image), ("condition", condition)):
                with open(files.new(self.folder / f"{identifier}.{name}.npy"), "wb") as file:
                    np.save(file, array)
        except BaseException:
            files.discard()
            raise
        return files


@contextmanager
def _read_by(reading: _Reading, cases: Sequence[Case], processes: int, kept: int = 0) -> Iterator[Iterator[_ReadCase]]:
    """Reads cases in several processes, or in threads where starting processes would take longer than that saves.

    Args:
        reading: reads one.
        cases: the cases.
        processes: number of processes.
        kept: number of the first cases whose arrays are returned.
    """
    items = [(case, number < kept) for number, case in enumerate(cases)]
    size = _bytes_of_files(cases)
    if processes > 1 and (len(cases) >= _WORTH_CASES or size >= _WORTH_BYTES):
        with in_processes(reading, items, processes, _AT_A_TIME if size < len(cases) * _SMALL else 1) as results:
            yield results
    else:
        with in_threads(reading, items, processes) as results:
            yield results


def are_small(raw: RawDataset) -> bool:
    """Whether reading a case takes hardly longer than reading its header."""
    return _bytes_of_files(list(raw.cases.values())) < len(raw.cases) * _SMALL


def _bytes_of_files(cases: Sequence[Case]) -> int:
    return sum(os.stat(file).st_size for case in cases for file in (*case.images, case.label))


def _read(raw: RawDataset, case: Case, hashes: FileHashes) -> tuple[np.ndarray, np.ndarray, CaseFacts]:
    """What ``read_case`` returns, with the hashes of the files that were read.

    Raises:
        BadInput: the case has a fault, or somebody is changing its files.
    """
    files = hashes_of_case(raw.folder, case, hashes)
    image, condition, facts = read_case(raw, case)
    if hashes_of_case(raw.folder, case, hashes) != files:
        raise BadInput(
            f"the files of {case.identifier} in {raw.folder} were changed while they were read; wait until they are "
            f"complete and run the same command again"
        )
    return image, condition, replace(facts, files=files)


def build_cache(
    raw: RawDataset, folder: Path, processes: int = 1, progress: bool = True, share: Share | None = None
) -> SliceCache:
    """Checks every real case and stores it in ``folder``; cached cases that have not changed are not read again.

    The hash of its files says whether a case has changed. Entries of earlier versions have no hashes; they are up to
    date if names, sizes and modification times of the files are the same.

    Args:
        raw: the dataset.
        folder: folder of the cache.
        processes: number of processes that read cases; threads where there are few new ones.
        progress: show a progress bar.
        share: this process's part, if several processes build the same cache.

    Raises:
        BadInput: the first fault in this process's cases.
    """
    folder.mkdir(parents=True, exist_ok=True)
    share = share or Share()
    hashes = FileHashes(folder / MEMO)
    current = partial(_current_facts, raw, folder, hashes)
    own = [case for position, case in enumerate(raw.cases.values()) if share.mine(position)]
    with in_threads(current, own, processes) as found:
        known = bar(found, visible=progress, total=len(own), desc="finding cached cases", unit="case", delay=2)
        facts = {entry.identifier: entry for entry in known if entry is not None}
    new = [case for case in own if case.identifier not in facts]
    options = {"visible": progress, "total": len(own), "initial": len(facts), "desc": "caching slices", "unit": "case"}
    facts |= _cached(raw, folder, new, processes, hashes, options)
    for identifier, case in raw.cases.items():  # not in threads: waiting for another process must be interruptible
        if identifier not in facts:
            share.wait_until(partial(current, case))
            known_now = current(case)
            facts |= {identifier: known_now} if known_now is not None else _cached(raw, folder, [case], 1, hashes)
    if share.main:
        hashes.save()
    return SliceCache(folder, {identifier: facts[identifier] for identifier in raw.cases}, raw.roles)


def _cached(
    raw: RawDataset,
    folder: Path,
    cases: list[Case],
    processes: int,
    hashes: FileHashes,
    options: Mapping[str, Any] = MappingProxyType({"visible": False}),
) -> dict[str, CaseFacts]:
    """Reads, checks and stores cases; the options are those of a progress bar."""
    facts, token = {}, new_token()
    try:
        with _Store(folder, raw) as store, _read_by(_Reading(raw, folder, token), cases, processes) as results:
            for read in bar(results, **options):
                assert read.files is not None
                store.add(read.facts, read.files)
                facts[read.facts.identifier] = read.facts
                hashes.add(read.hashed)
    except BaseException:
        discard_all(folder, token)
        raise
    return facts


class _Store:
    """Puts cases into the cache's folder. A thread waits for the disk, for all cases together that have come meanwhile.

    A case's entry is written when its arrays are on the disk and in place. So what a killed command or a power failure
    leaves is a case without an entry or with a damaged one, which is read again, and never an entry of other arrays.
    """

    def __init__(self, folder: Path, raw: RawDataset):
        self.folder, self.raw = folder, raw
        self._waiting: deque[tuple[CaseFacts, Replacements]] = deque()
        self._pool, self._begun = ThreadPoolExecutor(1), deque[Future]()

    def __enter__(self) -> _Store:
        return self

    def __exit__(self, *error: object) -> None:
        """Returns when all cases are in place.

        Raises:
            OSError: one of them could not be written.
        """
        self._pool.shutdown()
        if error[0] is None:
            for future in self._begun:
                future.result()

    def add(self, facts: CaseFacts, files: Replacements) -> None:
        """Puts a case in place some time after.

        Raises:
            OSError: a case before it could not be stored.
        """
        self._waiting.append((facts, files))
        self._begun.append(self._pool.submit(self._place))
        while self._begun and self._begun[0].done():  # in this order
            self._begun.popleft().result()

    def _place(self) -> None:
        cases = [self._waiting.popleft() for _ in range(len(self._waiting))]
        try:
            for _, files in cases:
                files.flush()
            for facts, files in cases:
                entry = self.folder / f"{facts.identifier}.json"
                entry.unlink(missing_ok=True)  # it does not describe the arrays any more
                files.place()
                _write_entry(entry, facts, self.raw)
        finally:
            for _, files in cases:
                files.discard()


def read_cache(raw: RawDataset, folder: Path) -> SliceCache | None:
    """The cache in ``folder`` if every real case is in it and unchanged since, else None; writes nothing."""
    hashes, facts = FileHashes(folder / MEMO), {}
    for identifier, case in raw.cases.items():
        found = _current_facts(raw, folder, hashes, case)
        if found is None:
            return None
        facts[identifier] = found
    return SliceCache(folder, facts, raw.roles)


def missing_bytes(raw: RawDataset, folder: Path, facts: Mapping[str, CaseFacts] | None = None) -> int:
    """Bytes that the cases without an entry in ``folder`` will take: from their facts, or at most, from headers."""
    new = [case for identifier, case in raw.cases.items() if not (folder / f"{identifier}.json").is_file()]
    if facts is not None:
        return sum(
            math.prod(of.shape) * (of.channels * np.dtype(of.dtype).itemsize + 1)
            for of in (facts[c.identifier] for c in new)
        )
    return sum(_cached_bytes(raw, case) for case in new)


def _cached_bytes(raw: RawDataset, case: Case) -> int:
    """Upper bound of the bytes of a case's arrays, from the headers of its images."""
    headers = [shape_and_bytes(path) for path in case.images]
    voxels = math.prod(headers[0][0]) if headers[0][0] else 0
    of_voxel = len(raw.channels) * max(size for _, size in headers)  # all channels have one type
    return voxels * (of_voxel + 1)  # and the condition map


def cached_image(raw_folder: Path, folder: Path, case: Case, hashes: FileHashes, reader: type) -> ImageReader | None:
    """Reads a case's image as a memory map; None if no current copy is cached.

    Args:
        raw_folder: of the dataset.
        folder: of the cache.
        case: the case.
        hashes: of files.
        reader: the dataset's nnU-Net reader.
    """
    try:
        entry = read_json(folder / f"{case.identifier}.json")
        if entry["format"] != _FORMAT or _turned(entry, reader):
            return None
        if entry["files"] != hashes_of_case(raw_folder, case, hashes):
            return None
        stored = partial(_stored_image, folder / f"{case.identifier}.image.npy", float(entry["facts"]["spacing"][0]))
        stored()
        return stored
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _write_entry(path: Path, facts: CaseFacts, raw: RawDataset) -> None:
    content = asdict(facts)
    apart = {key: content.pop(key) for key in _LATER}
    entry = {"format": _FORMAT, "stamp": facts.stamp, "roles": _roles_key(raw.roles), "facts": content, **apart}
    entry["reader"] = raw.reader.__name__
    with replacing(path, flushed=False) as temporary:
        temporary.write_bytes(json_bytes(entry))


def _current_facts(raw: RawDataset, folder: Path, hashes: FileHashes, case: Case) -> CaseFacts | None:
    """The cached facts of a case, or None if the case is not cached or its files have changed since."""
    path = folder / f"{case.identifier}.json"
    try:
        entry = read_json(path)
    except (FileNotFoundError, ValueError):  # it is written without waiting for the disk
        return None
    check_format(path, entry, _FORMAT, f", or delete the folder {folder} to read the cases anew")
    if _turned(entry, raw.reader):
        return None
    if entry["roles"] != _roles_key(raw.roles) or ("files" not in entry and entry["stamp"] != source_stamp(case)):
        return None
    files = hashes_of_case(raw.folder, case, hashes)
    if entry.get("files", files) != files:
        return None
    judged = _judged(raw, folder, case, entry.get("judged"))
    content = {**entry["facts"], "directions": entry.get("directions", ""), "blank": tuple(entry.get("blank", ()))}
    return None if judged is None else _facts(content, files, judged)


def _turned(entry: Mapping, reader: type) -> bool:
    """Whether a cached case may have other axes than the reader gives; most readers turn none."""
    before, now = entry.get("reader", ""), reader.__name__
    return before != now and _TURNING in before + now


def _judged(raw: RawDataset, folder: Path, case: Case, recorded: list | None) -> tuple[Judgement | None, ...] | None:
    """What the values of a cached case mean; None if its body was derived under another name of the channels.

    Entries of earlier versions do not say it. They took the body of a channel called CT above −500, so that where no
    value is that low there is no background.
    """
    if recorded is not None:
        judged = tuple(None if entry is None else Judgement.of(entry) for entry in recorded)
        same = len(judged) == len(raw.channels) and all(
            is_ct(name) == (judgement is not None) for name, judgement in zip(raw.channels, judged, strict=True)
        )
        return judged if same else None
    try:
        image, condition = (mapped(folder / f"{case.identifier}.{n}.npy") for n in ("image", "condition"))
    except (OSError, ValueError):
        return None
    judged = judged_channels(raw.channels, raw.roles, image, condition)
    if not body_is_above_hu(judged) and condition.size and condition.min() > 0:
        return None
    return judged


def _roles_key(roles: LabelRoles) -> str:
    return f"format 2, {sorted(roles.values.items())} ignore={roles.ignore}"


def _facts(content: dict, files: dict[str, str], judged: tuple[Judgement | None, ...]) -> CaseFacts:
    shape, spacing = tuple(content["shape"]), tuple(content["spacing"])
    return CaseFacts(**{**content, "shape": shape, "spacing": spacing, "files": files, "judged": judged})


def class_counts(facts: Sequence[CaseFacts], roles: LabelRoles) -> dict[str, int]:
    """Number of voxels of normal lung and of each pathology in these cases."""
    return {name: sum(f.voxels(name) for f in facts) for name in roles.lung}


def hash_of_voxels(cache: SliceCache, cases: Sequence[str]) -> str:
    """Hash of what cases hold, voxel by voxel, as a generator's card has it for its training cases."""
    return hashlib.sha256(json_bytes([cache.facts[i].content for i in cases])).hexdigest()


@dataclass(frozen=True)
class SliceIndex:
    """The training slices of a fold, which are the slices that show lung.

    Attributes:
        cases: (n,) case id of each slice.
        z: (n,) position of the slice in its case.
        holding: pathology → indices of the slices that contain it.
    """

    cases: list[str]
    z: np.ndarray
    holding: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.cases)


def index_slices(cache: SliceCache, identifiers: Sequence[str]) -> SliceIndex:
    """Lists the slices with lung of the given cases."""
    cases: list[str] = []
    z: list[int] = []
    holding: dict[str, list[int]] = {name: [] for name in cache.roles.pathologies}
    for identifier in sorted(identifiers):
        counts = cache.facts[identifier].counts
        for position, lung in enumerate(np.sum([counts[name] for name in cache.roles.lung], axis=0)):
            if lung:
                for name, indices in holding.items():
                    if counts[name][position]:
                        indices.append(len(cases))
                cases.append(identifier)
                z.append(position)
    return SliceIndex(cases, np.array(z, int), {name: np.array(indices, int) for name, indices in holding.items()})
