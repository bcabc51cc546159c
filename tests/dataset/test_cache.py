"""The cache's entries describe complete arrays, whenever the command or the machine stops."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from nnunet_difflung.dataset import cache
from nnunet_difflung.dataset.cache import build_cache, check_cases
from nnunet_difflung.dataset.holes import filled
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.dataset.reading import read_case
from nnunet_difflung.errors import BadInput
from tests.support.killing import in_child
from tests.support.tiny import make_dataset


@pytest.fixture
def raw(folders) -> RawDataset:
    """Four cases of as many patients."""
    make_dataset(folders[0], patients=4)
    return open_raw_dataset("801")


def entries(folder) -> set[str]:
    """Ids of the cases whose entry is in place."""
    return {path.stem for path in folder.glob("*.json") if not path.name.startswith(".")}


def is_as_read(raw, folder, identifier) -> bool:
    """Whether the arrays of a case are those of its files."""
    image, condition, _ = read_case(raw, raw.cases[identifier])
    stored = [np.load(folder / f"{identifier}.{name}.npy") for name in ("image", "condition")]
    return np.array_equal(stored[0], image) and np.array_equal(stored[1], condition)


def test_a_cache_that_is_killed_at_any_step_has_complete_entries_and_is_finished_later(raw, tmp_path):
    steps = in_child(lambda: build_cache(raw, tmp_path / "whole", progress=False))[1]
    for step in range(0, steps, 3):
        folder = tmp_path / str(step)
        assert in_child(lambda folder=folder: build_cache(raw, folder, progress=False), step)[0] in (0, 9)
        assert all(is_as_read(raw, folder, identifier) for identifier in entries(folder))
        assert set(build_cache(raw, folder, progress=False).facts) == entries(folder) == set(raw.cases)
    assert steps > 12


def test_an_entry_is_written_after_its_arrays_are_on_the_disk(raw, tmp_path, monkeypatch):
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: flushed.append(os.readlink(f"/proc/self/fd/{number}")))
    seen, replace = [], os.replace

    def place(source, target):
        seen.append((str(source), str(target)))
        if str(target).endswith(".npy"):
            assert str(source) in flushed
        else:
            case = os.path.basename(target).removesuffix(".json")
            assert {f"{case}.image.npy", f"{case}.condition.npy"} <= {os.path.basename(name) for _, name in seen}
        replace(source, target)

    monkeypatch.setattr(os, "replace", place)
    build_cache(raw, tmp_path / "cache", progress=False)
    assert len(seen) == 3 * len(raw.cases)


@pytest.mark.usefixtures("no_fsync")
@pytest.mark.parametrize("content", [b"", b"\0" * 300, b'{"format": 1, "facts": {'])
def test_a_case_whose_entry_a_power_failure_has_damaged_is_read_again(raw, tmp_path, content):
    folder = tmp_path / "cache"
    build_cache(raw, folder, progress=False)
    entry = folder / f"{next(iter(raw.cases))}.json"
    before = json.loads(entry.read_bytes())
    entry.write_bytes(content)
    build_cache(raw, folder, progress=False)
    assert json.loads(entry.read_bytes()) == before


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_is_reported_and_leaves_no_half_written_file(raw, tmp_path, monkeypatch, call):
    def fails(*_):
        raise OSError("no space left on the disk")

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="no space left"):
        build_cache(raw, tmp_path / "cache", progress=False)
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.usefixtures("no_fsync")
def test_processes_cache_what_threads_cache(raw, tmp_path, monkeypatch):
    one = build_cache(raw, tmp_path / "one", 2, progress=False)
    monkeypatch.setattr(cache, "_WORTH_CASES", 2)
    several = build_cache(raw, tmp_path / "several", 2, progress=False)
    assert several.facts == one.facts
    assert list(several.facts) == list(raw.cases)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "several").iterdir())
    for name in names:
        assert (tmp_path / "several" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.usefixtures("raw")
def test_a_script_need_not_guard_its_top_level(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from nnunet_difflung.dataset import cache\n"
        "from nnunet_difflung.dataset.raw_dataset import open_raw_dataset\n"
        "print('begun')\n"
        "cache._WORTH_CASES = 2\n"
        "print(len(cache.check_cases(open_raw_dataset('801'), 2, False)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.stdout.split() == ["begun", "8"], done.stderr


def test_processes_give_the_arrays_that_are_asked_for(raw, monkeypatch):
    monkeypatch.setattr(cache, "_WORTH_CASES", 2)
    arrays = {}
    facts = check_cases(raw, 2, False, lambda name, image, condition: arrays.update({name: (image, condition)}))
    assert list(arrays) == list(facts) == list(raw.cases)
    for name, (image, condition) in arrays.items():
        expected = read_case(raw, raw.cases[name])[:2]
        assert (image == expected[0]).all()
        assert (condition == expected[1]).all()


@pytest.mark.usefixtures("no_fsync")
def test_a_fault_that_a_process_finds_leaves_no_half_written_file(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_WORTH_CASES", 2)
    last = list(raw.cases)[-1]
    Path(raw.cases[last].label).write_bytes(b"no image")
    with pytest.raises(BadInput, match=last):
        build_cache(raw, tmp_path / "cache", 2, progress=False)
    left = {path.name.partition(".")[0] for path in (tmp_path / "cache").iterdir()}
    assert left <= set(raw.cases) - {last}


@pytest.mark.parametrize("share", [0.1, 0.4, 0.6, 0.9])
def test_holes_are_filled_as_scipy_fills_them(share):
    for seed in range(5):
        plane = np.random.default_rng(seed).random((17, 23)) < share
        assert (filled(plane) == ndimage.binary_fill_holes(plane)).all()
