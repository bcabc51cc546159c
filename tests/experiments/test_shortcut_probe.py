"""The shortcut probe: sees a seam, sees nothing where nothing was painted, and never sees the lesion."""

from __future__ import annotations

import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from experiments import shortcut_classifier, shortcut_patches, shortcut_probe
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.dataset.staged_case import StagedCase
from nnunet_difflung.dataset.writing import write_changed_copy
from nnunet_difflung.injection.inject import inject
from tests.support.staging import stage_cases
from tests.support.tiny import make_dataset

SIZE = 12


@pytest.fixture(scope="module")
def probe() -> SimpleNamespace:
    """All functions of the command and of the two modules beside it."""
    return SimpleNamespace(
        **{
            key: value
            for module in (shortcut_patches, shortcut_classifier, shortcut_probe)
            for key, value in vars(module).items()
            if not key.startswith("__")
        }
    )


def hosts(probe, patients: int = 9, count: int = 6):
    """Patches around a hidden square in noise of −850 HU, a level of its own for each patient."""
    found = []
    for patient in range(patients):
        rng = np.random.default_rng(patient)
        image = rng.normal(-850 + 100 * rng.normal(), 40, (1, 1, 32, 32))
        hidden, normal = np.zeros((2, 1, 32, 32), bool)
        hidden[0, 12:18, 12:20], normal[0, 4:28, 4:28] = True, True
        normal &= ~hidden
        centres = probe.centres_around(hidden, normal, 2, count, rng)
        found.append(probe.cut(image, hidden, normal, centres, SIZE, f"p{patient}", f"c{patient}"))
    return probe.joined(found)


def ring(patches, step: float):
    """The patches with a step in HU on the pixels that touch what is hidden."""
    from scipy import ndimage

    edge = np.array([ndimage.binary_dilation(~v) & v for v in patches.visible])
    return type(patches)(
        patches.pixels + step * edge[:, None], patches.visible, patches.lung, patches.patient, patches.case
    )


def test_a_seam_is_seen_in_patients_that_were_not_trained_on(probe):
    real = hosts(probe)
    assert probe.grouped_auc(real, ring(real, 100), 60, 0) > 0.9


def test_nothing_is_seen_where_nothing_was_painted(probe):
    real = hosts(probe)
    assert probe.grouped_auc(real, real, 30, 0) == 0.5
    lots = [probe.by_lot(real, seed) for seed in range(3)]
    assert all(set(a.case) & set(b.case) == set() for a, b in lots)
    found = np.mean([probe.grouped_auc(*lot, 30, 0) for lot in lots])
    assert 0.25 < found < 0.75  # of nine patients; remembering their levels would give 1


def test_patients_are_held_out_and_dealt_so_that_every_group_has_both_kinds(probe, monkeypatch):
    negative, seen = hosts(probe), []
    positive = negative[np.isin(negative.patient, ["p1", "p4", "p5"])]
    monkeypatch.setattr(
        "experiments.shortcut_classifier.inputs", lambda patches, scale: seen.append(set(patches.patient)) or patches
    )
    monkeypatch.setattr("experiments.shortcut_classifier.fit", lambda classes, steps, seed: None)
    monkeypatch.setattr("experiments.shortcut_classifier.scores", lambda model, patches: np.zeros(len(patches.patient)))
    assert probe.grouped_auc(negative, positive, 1, 0) == 0.5
    for train_n, train_p, test_n, test_p in zip(*[iter(seen)] * 4, strict=True):
        assert not (train_n | train_p) & (test_n | test_p)
        assert test_p
    with pytest.raises(ValueError, match="2 patients"):
        probe.grouped_auc(negative, positive[positive.patient != "p1"], 1, 0)


def test_the_lesion_is_hidden(probe):
    real, scale = hosts(probe), np.array([[-850.0], [40.0]])
    lesion = type(real)(
        np.where(real.visible[:, None], real.pixels, 400), real.visible, real.lung, real.patient, real.case
    )
    assert not np.array_equal(lesion.pixels, real.pixels)
    assert np.array_equal(probe.inputs(lesion, scale), probe.inputs(real, scale))
    assert len(np.unique(probe.inputs(probe.blind(real), scale)[:, 0][real.visible])) == 1


def test_patches_are_centred_on_the_margin_and_end_at_the_image(probe):
    region, normal = np.zeros((2, 2, 20, 20), bool)
    region[1, 0:4, 0:4], normal[1, :, :12] = True, True
    centres = probe.centres_around(region, normal, 2, 100, np.random.default_rng(0))
    assert len(centres) == len(np.unique(centres, axis=0))
    assert (centres[:, 0] == 1).all()
    far = np.maximum(centres[:, 1:] - 3, 0).sum(1)
    assert far.min() == 1
    assert far.max() == 2
    image = np.arange(800.0).reshape(1, 2, 20, 20)
    patches = probe.cut(image, region, normal, np.array([[1, 4, 5]]), 12, "p", "c")
    assert patches.pixels[0, 0, 6, 6] == image[0, 1, 4, 5]
    assert not patches.visible[0, :2].any()
    assert not patches.visible[0, 2:6, 1:5].any()
    assert patches.visible[0].sum() == 10 * 11 - 16


def _paint(raw, staged: StagedCase, step: float) -> None:
    """Gives a staged case a square of emphysema in its normal lung, with a ring of other intensity around."""
    host = raw.cases[staged.record["host"]]
    image, label = raw.read_image(host.identifier)[0], raw.read_label(host.identifier)[0]
    z, y, x = np.argwhere(label == 1)[len(np.argwhere(label == 1)) // 3]
    wide, square = np.zeros((2, *label.shape), bool)
    wide[z, y - 3 : y + 4, x - 3 : x + 4], square[z, y - 2 : y + 3, x - 2 : x + 3] = True, True
    wide, square = wide & (label == 1), square & (label == 1)
    values = np.where(square, -940, np.where(wide, image + step, image))
    write_changed_copy(host.images, [str(f) for f in staged.images], values, wide, raw.reader)
    shutil.copyfile(host.label, staged.label)
    write_changed_copy(
        (host.label,), (str(staged.label),), np.where(square, 2, label)[None].astype(np.float32), square, raw.reader
    )


def test_the_command_on_an_augmented_dataset(folders, probe, tmp_path, monkeypatch):
    raw_folder, *_ = folders
    make_dataset(raw_folder, patients=8, slices=2, folds=4)
    raw = open_raw_dataset("801")
    for method, step in (("cbmat", 0), ("copy_paste", 400)):
        cases, run = stage_cases(raw, method, 0, 12)
        for case in cases:
            _paint(raw, case, step)
        inject(raw, cases, run)
        raw = open_raw_dataset("801")
    output = tmp_path / "result.json"
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "shortcut_probe.py",
            "-d",
            "801",
            "-f",
            "0",
            "--methods",
            "cbmat",
            "copy_paste",
            "--seeds",
            "0",
            "--size",
            "12",
            "--steps",
            "30",
            "-o",
            str(output),
        ],
    )
    probe.main()
    content = json.loads(output.read_text())
    clean, seam = content["rows"]
    assert (clean["method"], clean["cases"], clean["patients"], clean["patches"]) == ("cbmat", 12, 6, 96)
    assert clean["paired"]["mean"] == 0.5
    assert seam["paired"]["mean"] > 0.75
    assert seam["real_patients"] == 6
    assert 15 < seam["known_seam"]["step"] < 25
    assert all(0 <= seam[key]["mean"] <= 1 for key in ("real_borders", "outlines_alone", "control", "known_seam"))
    assert {"command", "date", "seeds", "versions", "machine"} <= set(content["meta"])
