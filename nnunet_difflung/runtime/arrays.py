"""Reads .npy and .npz files, also from several threads at once.

numpy parses a file's header with ``ast.literal_eval``. In CPython before 3.11.8 and 3.12.2 two threads that do this at
once fail now and then with "SystemError: AST constructor recursion depth mismatch" (python/cpython issue 106905), which
stopped commands at random. So one thread parses at a time.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock

import numpy as np

_PARSING = Lock()


def mapped(path: Path) -> np.ndarray:
    """The array of a .npy file as a read-only memory map.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no array.
    """
    with _PARSING:
        return np.load(path, mmap_mode="r")


def load(path: Path) -> np.ndarray:
    """The array of a .npy file in memory; see ``mapped`` for errors."""
    with _PARSING:
        return np.load(path)


def load_packed(path: Path, key: str) -> np.ndarray:
    """An array of a .npz file in memory.

    Raises:
        Exception: of whatever kind numpy raises for a damaged file.
    """
    with _PARSING, np.load(path) as packed:
        return packed[key]
