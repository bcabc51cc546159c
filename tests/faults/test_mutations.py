"""A few rounds of the campaign of mutations, and that it can see what it looks for."""

from __future__ import annotations

import numpy as np

from tests.faults import mutations
from tests.faults.mutations import Said, differences


def test_no_mutation_changes_a_label_or_an_intensity_in_silence():
    rows = mutations.campaign(36, seed=3, shown=False)
    assert len(rows) == 36
    assert not mutations.faults(rows), mutations.faults(rows)[:2]
    outcomes = {row["outcome"] for row in rows}
    assert {"refused", "as before"} <= outcomes


def test_a_reader_that_fills_with_zeros_would_be_seen(monkeypatch):
    monkeypatch.setattr("nnunet_difflung.dataset_conversion.files.volume_files.damage", lambda _: "")
    monkeypatch.setattr(mutations, "KINDS", ("nrrd",))
    monkeypatch.setattr(mutations, "ALL", (mutations.zero_block,))
    monkeypatch.setattr(mutations, "OF_KIND", {"nrrd": ()})
    assert mutations.faults(mutations.campaign(12, shown=False))


def test_a_traceback_would_be_seen(monkeypatch):
    good = mutations.convert

    def convert(arguments, kind):
        said = good(arguments, kind)
        return Said(None, said.text, "Traceback …") if "mutated" in str(arguments) else said

    monkeypatch.setattr(mutations, "convert", convert)
    assert len(mutations.faults(mutations.campaign(2, shown=False))) == 2


def test_differences_names_what_differs():
    image, label = np.zeros((2, 3, 3)), np.ones((2, 3, 3))
    good = {"p1": (image, label, [1]), "p2": (image, label, [1])}
    assert differences(good, good) == []
    assert differences(good, {"p1": (image, label, [1])}) == ["p2 is missing"]
    assert differences(good, good | {"p3": good["p1"]}) == ["p3 is new"]
    assert differences(good, good | {"p2": (image + 1, label, [1])}) == ["p2: 18 voxels' intensities"]
    assert differences(good, good | {"p2": (image, label * 2, [1])}) == ["p2: 18 voxels' labels"]
    assert differences(good, good | {"p2": (image, label, [2])}) == ["p2: size or place"]
