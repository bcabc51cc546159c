"""A channel called CT that does not hold HU is refused before anything is trained or written, with ways to go on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.commands.augment import entry, main
from nnunet_difflung.config import CT_WINDOW, preset
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.hu_check import check_hu, doubts
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.evaluation.grey_levels import windows_of_values
from nnunet_difflung.meaning.intensities import Meaning
from nnunet_difflung.pipeline import augment as augment_module
from nnunet_difflung.runtime.files import read_json, write_json
from tests.support.tiny import make_dataset, tree_hashes

RUN = ["-d", "801", "-f", "0", "--preset", "fast", "-device", "cpu", "-np", "1", "--max-synthetic", "2"]
Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(autouse=True)
def nothing_is_trained(monkeypatch) -> None:
    monkeypatch.setattr(augment_module, "train_fold", lambda *_: pytest.fail("a training was started"))


def change(folder: Path, how: Change, cases: str = "*") -> None:
    """Changes the values of images."""
    for path in (folder / "imagesTr").glob(f"{cases}_0000.nii.gz"):
        image = sitk.ReadImage(str(path))
        changed = sitk.GetImageFromArray(how(sitk.GetArrayFromImage(image)))
        changed.CopyInformation(image)
        sitk.WriteImage(changed, str(path))


def rename(folder: Path, name: str) -> None:
    content = read_json(folder / "dataset.json")
    write_json(folder / "dataset.json", content | {"channel_names": {"0": name}})


def window(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip((values + 1350) / 1500, 0, 1) * 255).astype(np.uint8)


def stored(values: np.ndarray) -> np.ndarray:
    return (values + 1024).astype(np.uint16)


def refused(capsys, *options: str) -> str:
    """The one line with which a command ends with exit code 2."""
    with pytest.raises(SystemExit) as end:
        entry([*RUN, *options])
    assert end.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
    return line


@pytest.mark.parametrize(
    ("how", "name", "parts"),
    [
        (stored, "CT", ["soft tissue around 106", "subtract 1024", "stored_values"]),
        (lambda v: (v + 1024).astype(np.int16), "ct", ["channel ct", "subtract 1024"]),
        (window, "CT", ["display window", "lung_window_8bit"]),
        (lambda v: -1 - v, "CT", ["upside down", "by -1 minus their values"]),
        (lambda v: v.astype(np.float32) / 1000, "CT", ["display window", "windowed"]),
    ],
    ids=["stored", "stored int16", "8 bits", "inverted", "thousandth"],
)
def test_values_that_are_not_hu_are_refused_and_nothing_is_written(folders, capsys, how, name, parts):
    folder = make_dataset(folders[0])
    change(folder, how)
    rename(folder, name)
    before = [tree_hashes(place) for place in folders]
    line = refused(capsys)
    assert f"channel {name} does not hold HU in 10 of 10 cases (the first lung_001_s00)" in line
    assert all(part in line for part in parts), line
    assert refused(capsys, "--dry-run") == line
    assert [tree_hashes(place) for place in folders] == before


def test_what_the_message_proposes_works(folders, capsys):
    folder = make_dataset(folders[0], slices=1)
    change(folder, stored)
    option = re.search(r"--window=\S+", refused(capsys, "--dry-run")).group()
    assert main([*RUN, "--dry-run", option]) == 0
    shown = capsys.readouterr()
    assert "Dry run" in shown.out
    assert "Warning: Dataset801_Tiny: channel CT does not hold HU" in shown.err
    rename(folder, "stored_values")
    assert found_in(folders) == []
    rename(folder, "CT")
    assert len(found_in(folders)) == 1
    change(folder, lambda v: v.astype(np.int16) - 1024)
    assert found_in(folders) == []


def found_in(folders) -> list:
    raw = open_raw_dataset("801")
    return doubts(raw, build_cache(raw, folders[2] / "cache", progress=False).facts)


def test_the_given_window_is_a_warning(folders, capsys):
    change(make_dataset(folders[0]), stored)
    raw = open_raw_dataset("801")
    facts = build_cache(raw, folders[2] / "cache", progress=False).facts
    (warning,) = check_hu(raw, facts, windows_given=True)
    assert "subtract" not in warning
    assert "soft tissue around" in warning


def test_the_minority_is_named(folders, capsys):
    change(make_dataset(folders[0]), stored, "lung_002*")
    line = refused(capsys, "--dry-run")
    assert "in 2 of 10 cases (lung_002_s00, lung_002_s01)" in line
    assert "subtract 1024 from the images of these cases" in line
    assert "rename" not in line
    assert "--window" not in line  # no range suits the values of all cases


def test_blank_cases_and_other_channels_are_not_refused(folders, capsys):
    folder = make_dataset(folders[0], channels=2)
    image = sitk.ReadImage(str(folder / "imagesTr/lung_001_s00_0001.nii.gz"))
    sitk.WriteImage(image * 0 + 7, str(folder / "imagesTr/lung_001_s00_0001.nii.gz"))
    change(folder, lambda v: np.full_like(v, -1000), "lung_003_s01")
    raw = open_raw_dataset("801")
    facts = build_cache(raw, folders[2] / "cache", progress=False).facts
    assert doubts(raw, facts) == []
    assert facts["lung_003_s01"].judged[0].meaning is Meaning.UNCERTAIN
    assert facts["lung_001_s00"].judged[1] is None


def as_of_earlier_versions(cache: Path) -> None:
    for path in cache.glob("lung*.json"):
        entry = read_json(path)
        del entry["judged"]
        write_json(path, entry)


def test_caches_of_earlier_versions_are_judged_and_read(folders, capsys):
    folder = make_dataset(folders[0])
    raw = open_raw_dataset("801")
    place = folders[2] / "cache"
    first = build_cache(raw, place, progress=False)
    assert "judged" not in read_json(place / "lung_001_s00.json")["facts"], "earlier versions can read the entry"
    as_of_earlier_versions(place)
    before = tree_hashes(place)
    again = build_cache(raw, place, progress=False)
    assert tree_hashes(place) == before
    assert again.facts == first.facts
    assert all(facts.judged[0].meaning is Meaning.HU for facts in again.facts.values())
    assert folder.is_dir()


def test_a_body_that_was_derived_under_another_name_is_derived_again(folders):
    folder = make_dataset(folders[0])
    change(folder, stored)
    place = folders[2] / "cache"
    build_cache(open_raw_dataset("801"), place, progress=False)
    for path in place.glob("*.condition.npy"):  # as an earlier version did: all above −500
        condition = np.load(path)
        condition[condition == 0] = 4
        np.save(path, condition)
    as_of_earlier_versions(place)
    rename(folder, "stored_values")
    cache = build_cache(open_raw_dataset("801"), place, progress=False)
    assert all((cache.condition(i) == 0).any() for i in cache.facts)


@pytest.mark.parametrize(("how", "span"), [(window, 255), (stored, 2000)], ids=["8 bits", "stored"])
def test_the_metrics_range_is_that_of_the_values(folders, how, span):
    folder = make_dataset(folders[0])
    raw = open_raw_dataset("801")
    cache = build_cache(raw, folders[2] / "cache", progress=False)
    config = replace(preset("fast").generator, windows=(CT_WINDOW,))
    assert windows_of_values(raw, cache, {0: CT_WINDOW}, {0: [config]}) == ({0: CT_WINDOW}, "")
    change(folder, how)
    cache = build_cache(raw, folders[2] / "cache", progress=False)
    windows, warning = windows_of_values(raw, cache, {0: CT_WINDOW}, {0: [config]})
    low, high = windows[0]
    assert 0 <= low < high <= span
    assert "grey levels and not in HU" in warning
    chosen = replace(config, windows=((0.0, 255.0),))
    assert windows_of_values(raw, cache, {0: CT_WINDOW}, {0: [chosen]})[0] == {0: (0.0, 255.0)}
    assert json.dumps(windows)
