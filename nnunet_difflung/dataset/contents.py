"""SHA-256 hashes of the files of a dataset's real cases: what a case is, whatever it is called.

Hashing a dataset takes as long as reading it, so hashes are remembered beside the cached cases. A remembered hash is
used only while size, times and inode of its file are the same, and never for a file that was changed so shortly before
that its time cannot tell another change.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import time
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_difflung.dataset.layout import Case
from nnunet_difflung.dataset.splits import is_synthetic
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import NNUNET_RESULTS, cache_folder
from nnunet_difflung.runtime.files import openable, read_json, sha256, write_json
from nnunet_difflung.runtime.modes import readable_like

if TYPE_CHECKING:
    from nnunet_difflung.dataset.raw_dataset import RawDataset

MEMO = ".contents.json"  # in the cache's folder; no case id begins with a dot
EMPTY = 3  # different values of an image that shows nothing: air, padding, a table
_FORMAT = 1
_SETTLED = 2_000_000_000  # ns; a file changed less long ago may be changed again without a change of its time
_GZIP_TRAILER = 8  # bytes
_WORTH_FILES, _WORTH_BYTES = 50, 2**24  # hashing less than this takes no longer than remembering it

Contents = Mapping[str, Mapping[str, str]]  # case id → file, named as in the manifest → SHA-256


def stat_key(path: str | Path) -> list[int]:
    """Size, modification time, change time and inode of a file: if none differs, nobody has written to the file."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def quick_key(path: str | Path) -> tuple[int, ...]:
    """A number that files of the same data share, found without reading them: most files that share it are the same.

    Of a gzip file it is what its last eight bytes say of the data: CRC-32 and size, whatever the compression; of any
    other file, the size.
    """
    if os.fspath(path).endswith(".gz"):
        with open(path, "rb") as file:
            if file.seek(0, os.SEEK_END) > _GZIP_TRAILER:
                file.seek(-_GZIP_TRAILER, os.SEEK_END)
                checksum, size = struct.unpack("<II", file.read())
                if size:  # a file of several gzip blocks may end with an empty one
                    return checksum, size
    return (os.path.getsize(path),)


def hash_of_data(path: str | Path) -> str:
    """SHA-256 of what a gzip file holds; of the file itself if it is damaged or no gzip file."""
    digest = hashlib.sha256()
    try:
        with gzip.open(path) as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return sha256(path)
    return digest.hexdigest()


class FileHashes:
    """SHA-256 of files, remembered from one command to the next.

    Several threads may use it. Several processes may save to the same file: what one of them loses is hashed again.
    """

    def __init__(self, memo: Path | None = None, anew: bool = False):
        """Reads what is remembered.

        Args:
            memo: file in which hashes are remembered; None remembers nothing.
            anew: hash every file once more, and use nothing that was remembered before.
        """
        self.memo = memo
        self._remembered: dict[str, list] = {} if memo is None or anew else _read(memo)
        self._hashed: dict[str, list] = {}

    def of(self, path: str | Path) -> str:
        """SHA-256 of a file's bytes.

        Raises:
            OSError: the file cannot be read.
        """
        name = os.path.abspath(path)
        key = stat_key(path)
        for entries in (self._hashed, self._remembered):
            if entries.get(name, [None])[:-1] == key:
                return entries[name][-1]
        digest = sha256(name)
        if stat_key(name) == key and time.time_ns() - max(key[1], key[2]) > _SETTLED:
            self._hashed[name] = [*key, digest]
        return digest

    def of_data(self, path: str | Path) -> str:
        """SHA-256 of a file's data: of a gzip file after decompression, which is not remembered.

        Raises:
            OSError: the file cannot be read.
        """
        return hash_of_data(path) if os.fspath(path).endswith(".gz") else self.of(path)

    def hashed(self) -> dict[str, list]:
        """What was hashed and may be remembered, for ``add``."""
        return dict(self._hashed)

    def add(self, hashed: Mapping[str, list]) -> None:
        """Takes over what another process has hashed."""
        self._hashed.update(hashed)

    def save(self) -> None:
        """Remembers the hashes, if that saves time; a folder that cannot be written is no error."""
        new = dict(self._hashed)
        worth = len(new) > _WORTH_FILES or sum(entry[0] for entry in new.values()) > _WORTH_BYTES
        if self.memo is None or not worth or self.memo.parent.is_symlink():  # what a link points to is not ours
            return
        with suppress(OSError), readable_like(new, [self.memo.parent]):
            write_json(self.memo, {"format": _FORMAT, "files": {**_read(self.memo), **new}})


def _read(memo: Path) -> dict[str, list]:
    """What a memo remembers; nothing if it is missing, damaged, or of another format."""
    try:
        content = read_json(memo)
        entries = content["files"] if content["format"] == _FORMAT else {}
        return {name: entry for name, entry in entries.items() if len(entry) == 5 and isinstance(entry[-1], str)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}


def hashes_of_dataset(dataset_name: str, anew: bool = False) -> FileHashes:
    """The hashes remembered for ``DatasetXXX_NAME``.

    Args:
        dataset_name: the dataset; nothing is remembered where ``nnUNet_results`` is not a folder.
        anew: use nothing that was remembered before.
    """
    results = os.environ.get(NNUNET_RESULTS)
    memo = cache_folder(dataset_name) / MEMO if results and os.path.isdir(results) else None
    return FileHashes(memo, anew)


def name_of(folder: Path, file: str | Path) -> str:
    """Name of a real case's file in the manifest: relative to the raw dataset, absolute if it lies elsewhere."""
    path, inside = os.fspath(file), os.path.join(folder, "")
    if ".." in path or not path.startswith(inside):
        path, inside = os.path.abspath(file), os.path.join(os.path.abspath(folder), "")
    return path.removeprefix(inside).replace(os.sep, "/")


def hashes_of_case(folder: Path, case: Case, hashes: FileHashes) -> dict[str, str]:
    """The hashes of a case's image and label files.

    Raises:
        OSError: a file cannot be read.
    """
    return {name_of(folder, file): hashes.of(file) for file in (*case.images, case.label)}


def contents_of(raw: RawDataset, hashes: FileHashes | None = None) -> dict[str, dict[str, str]]:
    """The hashes of all real cases of a dataset, as the manifest's key ``contents`` holds them.

    Raises:
        OSError: a file cannot be read.
    """
    own = hashes or hashes_of_dataset(raw.name)
    contents = {identifier: hashes_of_case(raw.folder, case, own) for identifier, case in sorted(raw.cases.items())}
    if hashes is None:
        own.save()
    return contents


def digest_of(contents: Contents, cases: Iterable[str]) -> str | None:
    """One hash for what some cases hold, whatever they are called; None if a case has no contents.

    Args:
        contents: hashes of the files of each case.
        cases: ids of the cases, in any order.
    """
    names = set(cases)
    if not all(contents.get(name) for name in names):
        return None
    held = sorted(",".join(sorted(contents[name].values())) for name in names)
    return hashlib.sha256("\n".join(held).encode()).hexdigest()


def present_cases(folder: Path, dataset_json: Mapping, synthetic: bool = False) -> dict[str, Case]:
    """The real cases that are in a raw dataset now, complete or not: only files that exist are listed.

    Unlike ``layout.list_cases`` it refuses nothing, so that an audit can name what is wrong with each file.

    Args:
        folder: of the raw dataset.
        dataset_json: content of its ``dataset.json``.
        synthetic: list synthetic cases too.

    Returns:
        id → case; its label is empty if there is none.
    """
    images: dict[str, list[str]] = {}
    labels: dict[str, str] = {}
    if isinstance(dataset_json.get("dataset"), Mapping):
        for identifier, entry in dataset_json["dataset"].items():
            images[identifier] = [file for name in entry["images"] if os.path.isfile(file := listed_file(folder, name))]
            label = listed_file(folder, entry["label"])
            labels[identifier] = label if os.path.isfile(label) else ""
    else:
        ending = str(dataset_json.get("file_ending", ""))
        for stem, file in _files_in(folder / "imagesTr", ending):
            images.setdefault(stem[:-5], []).append(file)
        labels = dict(_files_in(folder / "labelsTr", ending))
    cases = {i: Case(i, tuple(images.get(i, ())), labels.get(i, "")) for i in sorted({*images, *labels})}
    return {
        i: case for i, case in cases.items() if i and (synthetic or not is_synthetic(i)) and (case.images or case.label)
    }


def listed_file(folder: Path, file: object) -> str:
    """Absolute path of a file that ``dataset.json`` lists, as nnU-Net reads it."""
    return os.path.abspath(folder / os.path.expandvars(str(file)))


def _files_in(folder: Path, ending: str) -> list[tuple[str, str]]:
    """Name without the ending, and path, of the files in a folder, sorted."""
    if not ending or not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        files = [(entry.name, entry.path) for entry in entries if entry.name.endswith(ending) and entry.is_file()]
    return sorted((name.removesuffix(ending), path) for name, path in files if not name.startswith("."))


def same_images(folder: Path, images: Contents) -> list[tuple[str, ...]]:
    """Groups of case ids that share an image file, each group sorted.

    Labels are not compared, since two slices without a lesion may well have the same label; nor are images of up to
    three values, such as a slice beyond the body with padding around the air, or a channel of zeros.

    Args:
        folder: of the raw dataset.
        images: hashes of the image files of each case.
    """
    holders: dict[str, dict[str, str]] = {}
    for identifier, files in images.items():
        for name, digest in files.items():
            holders.setdefault(digest, {})[identifier] = name
    shared = [names for names in holders.values() if len(names) > 1]
    return sorted(
        {tuple(sorted(names)) for names in shared if not is_uniform(folder / next(iter(names.values())), EMPTY)}
    )


def is_uniform(path: Path, values: int = 1) -> bool:
    """Whether an image or a label has at most so many different values; False if SimpleITK cannot read it."""
    import SimpleITK as sitk  # takes longer to import than all other work on files that are not the same

    try:
        voxels = sitk.GetArrayFromImage(sitk.ReadImage(openable(path))).ravel()
    except (RuntimeError, BadInput):
        return False
    sample = voxels[:: max(1, len(voxels) // 10_000)]
    return len(np.unique(sample)) <= values and len(np.unique(voxels)) <= values


def torn_apart(groups: Iterable[tuple[str, ...]], split: Mapping[str, Collection[str]]) -> Iterator[tuple[str, str]]:
    """A (training case, validation case) of a fold for each group that has both."""
    for group in groups:
        training, validation = (sorted(set(group) & set(split[side])) for side in ("train", "val"))
        pairs = [(a, b) for a in training for b in validation if a != b]
        yield from pairs[:1]


def check_same_content(raw: RawDataset, folds: Iterable[int | str]) -> None:
    """Refuses folds in which the same image is in training under one id and in validation under another.

    Args:
        raw: the dataset, its cases read and hashed (``reading.with_class_counts``).
        folds: the folds that are wanted; ``all`` has no validation.

    Raises:
        BadInput: names both ids and what to do.
    """
    images = {i: dict(list(files.items())[:-1]) for i, files in (raw.contents or {}).items()}  # the label is last
    groups = same_images(raw.folder, images)
    together = "say with --patients that both are of one patient" if raw.splits_are_new else "change splits_final.json"
    for fold in folds if groups else ():
        for training, validation in torn_apart(groups, raw.splits[int(fold)]) if fold != "all" else ():
            raise BadInput(
                f"fold {fold} of {raw.name} trains on {training} and validates on {validation}, which hold the same "
                f"image (equal SHA-256); remove one of the two cases from the dataset, or {together}, so that both are "
                f"on the same side"
            )
