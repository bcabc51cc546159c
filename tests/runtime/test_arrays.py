"""Arrays are read one header at a time, whatever the number of threads, and nowhere else in the package."""

from __future__ import annotations

import ast
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nnunet_difflung.runtime.arrays import load, load_packed, mapped

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def parsers(monkeypatch) -> list[int]:
    """How many threads parsed a header at the same time, noted at each header."""
    parse, lock, active, seen = ast.literal_eval, threading.Lock(), [0], list[int]()

    def counted(text):
        with lock:
            active[0] += 1
            seen.append(active[0])
        time.sleep(0.002)
        try:
            return parse(text)
        finally:
            with lock:
                active[0] -= 1

    monkeypatch.setattr(ast, "literal_eval", counted)
    return seen


@pytest.mark.parametrize("read", [load, mapped, lambda path: load_packed(path.with_suffix(".npz"), "b")])
def test_threads_parse_one_header_at_a_time(tmp_path, parsers, read):
    array = np.arange(12, dtype=np.int16).reshape(3, 4)
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "a.npz", a=array + 1, b=array)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(read, [tmp_path / "a.npy"] * 16):
            np.testing.assert_array_equal(found, array)
    assert parsers == [1] * 16


def test_without_the_lock_they_would_parse_at_the_same_time(tmp_path, parsers):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(np.load, [tmp_path / "a.npy"] * 16))
    assert max(parsers) > 1


def test_a_map_cannot_be_written_to_and_what_is_no_array_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(ValueError, match="read-only"):
        mapped(tmp_path / "a.npy")[0] = 1
    (tmp_path / "b.npy").write_bytes(b"no array")
    for read in (load, mapped):
        with pytest.raises(ValueError, match=r"pickle|magic"):
            read(tmp_path / "b.npy")
        with pytest.raises(OSError, match=r"c\.npy"):
            read(tmp_path / "c.npy")


def test_no_other_module_of_the_package_reads_arrays():
    rooms = ("nnunet_difflung", "trainers", "dataset_conversion")
    found = {
        str(path.relative_to(CHECKOUT))
        for room in rooms
        for path in (CHECKOUT / room).rglob("*.py")
        if re.search(r"\bnp\.load\(|open_memmap", path.read_text(encoding="utf-8"))
    }
    assert {name for name in found if "runtime" not in name} == set()
    assert found
