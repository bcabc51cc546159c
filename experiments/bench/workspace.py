"""A row's own three nnU-Net folders: links to the shared dataset, with the splits of the row's seed.

So two rows never change the same dataset, one method can be painted with several settings, and the audits before a
training look at the synthetic cases of one row and not at those of a hundred.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from experiments.bench.base import Base
from experiments.bench.splits import with_fewer_sources
from nnunet_difflung.paths import NNUNET_PREPROCESSED, NNUNET_RAW, NNUNET_RESULTS, PATH_VARIABLES, SPLITS, method_name
from nnunet_difflung.runtime.files import write_bytes, write_json

_CACHE = method_name("cache")
_LINKED = "linked"  # exists in a workspace that is complete, so that a row can be continued in it
_REMEMBERED = (".contents.json", ".images.json", ".preprocessed.json")  # in the cache: what was hashed and compared


def open_workspace(root: Path, base: Base, seed: int, remembered: Path) -> None:
    """Makes a row's folders, or leaves those of an interrupted row as they are.

    Images, labels and arrays are links to those of the base; small files are copied, since commands change them.

    Args:
        root: of the workspace.
        base: what all rows share.
        seed: of the row, for its splits.
        remembered: folder of what commands remember of files that they compared in earlier rows of the seed; they
            check that the files are the same.
    """
    if (root / _LINKED).is_file():
        return
    shutil.rmtree(root, ignore_errors=True)
    for variable in PATH_VARIABLES:
        source = base.root / variable / base.dataset
        if source.is_dir():
            _link(source, root / variable / base.dataset)
    splits = with_fewer_sources(base.splits, base.patients, base.rare, seed)
    for variable in (NNUNET_RAW, NNUNET_PREPROCESSED):
        write_json(root / variable / base.dataset / SPLITS, splits)
    _copy_remembered(remembered, _cache(root, base))
    write_bytes(root / _LINKED, b"")


def keep_remembered(root: Path, base: Base, remembered: Path) -> None:
    """Keeps what the commands of a complete row remember, for the next rows of its seed."""
    _copy_remembered(_cache(root, base), remembered)


def _cache(root: Path, base: Base) -> Path:
    return root / NNUNET_RESULTS / base.dataset / _CACHE


def _copy_remembered(source: Path, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for name in _REMEMBERED:
        if (source / name).is_file():
            write_bytes(target / name, (source / name).read_bytes())


def _link(source: Path, target: Path) -> None:
    for folder, _, names in os.walk(source):
        inside = target / Path(folder).relative_to(source)
        inside.mkdir(parents=True, exist_ok=True)
        for name in names:
            original = Path(folder) / name
            if name.startswith(".") or original.suffix == ".json" or _CACHE in original.parts:
                shutil.copyfile(original, inside / name)
            else:
                (inside / name).symlink_to(original)
