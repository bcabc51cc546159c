"""The figures of ``difflung_compare`` without its files."""

from __future__ import annotations

import json

import pytest

import nnunet_difflung as dl
from nnunet_difflung.commands.compare import main
from nnunet_difflung.injection.manifest import MANIFEST, new_manifest
from tests.comparison.test_compare import CBMAT, NAME, REFERENCE, write_training
from tests.support.tiny import tree_hashes


@pytest.fixture
def trained(folders):
    """Two arms, trained on two folds."""
    _, preprocessed, results = folders
    (preprocessed / NAME).mkdir()
    manifest = new_manifest(NAME, {case: case.split("_")[0] for case in REFERENCE})
    (preprocessed / NAME / MANIFEST).write_text(json.dumps(manifest))
    for fold in (0, 1):
        write_training(results, "reference", REFERENCE, fold)
        write_training(results, "cbmat", CBMAT, fold)
    return folders


def test_they_are_those_of_the_command_and_nothing_is_written(trained):
    before = tree_hashes(*trained)
    comparison = dl.compare(942, [0, 1])
    assert tree_hashes(*trained) == before
    assert main(["-d", "942", "-f", "0", "1"]) == 0
    table = json.loads((trained[2] / NAME / "DiffLung__compare" / "table2.json").read_text())
    assert comparison.meta["folds"] == table.pop("meta")["folds"]
    assert comparison.arms == table
    row = table["cbmat"]["emphysema"]
    assert comparison.reference == "reference"
    assert comparison.dice("cbmat", "emphysema") == row["dice"]["mean"] > comparison.dice("reference", "emphysema")
    mean, interval = comparison.difference("cbmat", "emphysema")
    assert (mean, interval and list(interval)) == (row["diff_to_reference"]["mean"], row["diff_to_reference"]["ci95"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"folds": [2]}, "no arm has a finished training"),
        ({"folds": ["first"]}, "is not a fold"),
        ({"folds": [0], "tolerance_mm": 0}, "tolerance_mm=0 is not positive"),
        ({"folds": [0], "arms": ["cbmat"]}, "not among the arms"),
        ({"folds": [0], "arms": ["reference", "nope"]}, "expected a list of arms, each of them one of reference, "),
        ({"folds": [0], "arms": "reference"}, "arms='reference': expected a list of arms"),
        ({"folds": [0], "patient_pattern": "(.+)", "patients_file": "p.csv"}, "both say who the patients are"),
        ({"dataset": 943, "folds": [0]}, NAME),
    ],
)
def test_what_is_refused(trained, options, text):
    with pytest.raises(dl.BadInput, match=text):
        dl.compare(**{"dataset": 942, **options})
