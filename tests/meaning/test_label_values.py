"""Values of labels, in dataset.json and in the files: unusual ones that nnU-Net takes, and those it fails at."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nnunet_difflung.dataset.cache import build_cache, check_cases
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.labels import label_roles
from tests.support.lungs import relabel
from tests.support.tiny import LABELS, make_dataset, write_array


@pytest.mark.parametrize(
    ("labels", "part"),
    [
        ({"background": 0, "lung": 1, "ILD": 3}, "no label has the value 2, but ILD has 3"),
        ({"background": 0, "lung": 2, "ILD": 3}, "no label has the value 1"),
        ({"background": 0, "lung": 1, "ignore": 2, "ILD": 3}, "label ignore has the value 2"),
        ({"background": 0, "lung": 1, "ILD": 2, "ignore": "3"}, "without quotes: 3"),
        ({"background": 0, "lung": 1, "ILD": 2.5}, "expected a whole number"),
        ({"background": 0, "lung": 1, "ILD": -1}, "expected a whole number"),
        ({"background": 0, "lung": 1, "ILD": None}, "expected a whole number"),
        ({"0": "background", "1": "lung", "2": "ILD"}, "writes the name first"),
        ({"background": 0, "lung": 1, "IL\ud800D": 2}, r"'IL\\ud800D' holds half a letter"),
        (["background", "lung", "ILD"], "expected names with their values"),
        ({"background": 0, "lung": 1, **{f"x{i}": i for i in range(2, 300)}}, "at most 254"),
    ],
    ids=str,
)
def test_what_nnunet_fails_at_is_refused(labels, part):
    with pytest.raises(BadInput, match=part):
        label_roles({"labels": labels}, "dataset.json")


def test_order_strings_and_an_ignore_label_anywhere_are_right(raw_folder, tmp_path):
    labels = {"ILD": "3", "ignore": 4, "background": 0, "absent": "5", "normal_lung": 1, "emphysema": "2"}
    labels = {**labels, "ignore": 5, "absent": 4}
    folder = make_dataset(raw_folder, slices=1)
    relabel(folder, labels, lambda label: label)
    raw = open_raw_dataset("801")
    assert raw.roles.pathologies == ("ILD", "absent", "emphysema")
    assert raw.roles.condition_values().tolist() == [1, 3, 4, 2, 6]
    facts = build_cache(raw, tmp_path / "cache", progress=False).facts["lung_001_s00"]
    label = raw.read_label("lung_001_s00")[0]
    for name, value in LABELS.items():
        if value:
            assert facts.voxels(name) == (label == value).sum() > 0
    assert facts.voxels("absent") == 0


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (7, "holds the label 7"),
        (-1, "holds the label -1"),
        (0.998, "holds the value 0.998"),
        (1.5, "holds the value 1.5"),
        (np.nan, "holds the value nan"),
        (40000, "holds the value 40000"),
        (65537, "holds the value 65537"),
    ],
)
def test_a_value_in_a_file_that_is_no_label_is_refused_with_its_file(raw_folder, value, part):
    folder = make_dataset(raw_folder, slices=1, file_ending=".nrrd")
    label = open_raw_dataset("801").read_label("lung_002_s00")[0].astype(np.float64)
    label[0, 3, 4] = value
    write_array(folder / "labelsTr" / "lung_002_s00.nrrd", label)
    with pytest.raises(BadInput, match=f"lung_002_s00.nrrd {part}"):
        check_cases(open_raw_dataset("801"), progress=False)


def test_a_colour_picture_is_no_label(raw_folder):
    folder = make_dataset(raw_folder, slices=1, file_ending=".png")
    path = folder / "labelsTr" / "lung_002_s00.png"
    label = open_raw_dataset("801").read_label("lung_002_s00")[0].astype(np.uint8)
    write_array(path, np.stack([label, label, label], axis=-1))  # grey, saved as RGB
    check_cases(open_raw_dataset("801"), progress=False)
    write_array(path, np.stack([label, 0 * label, label], axis=-1))
    with pytest.raises(BadInput, match="lung_002_s00.png has 3 channels that differ"):
        check_cases(open_raw_dataset("801"), progress=False)


def test_a_name_without_a_value_in_a_case_is_right(raw_folder):
    folder = make_dataset(raw_folder, slices=1)
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "labels": {**LABELS, "honeycombing": 4}}))
    raw = open_raw_dataset("801")
    assert raw.roles.pathologies == ("emphysema", "ILD", "honeycombing")
    assert all(facts.voxels("honeycombing") == 0 for facts in check_cases(raw, progress=False).values())
