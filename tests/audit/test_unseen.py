"""The audit looks for patients of the folds in the test set."""

from __future__ import annotations

import json
import shutil

import pytest

from nnunet_difflung.audit.audit import audit
from tests.support.tiny import make_dataset


@pytest.fixture
def folder(folders, no_fsync):
    """Four patients in folds, a fifth whose cases go to the test set, which is empty."""
    folder = make_dataset(folders[0], patients=5, slices=2, size=16, folds=4)
    (folder / "imagesTs").mkdir()
    (folder / "labelsTs").mkdir()
    splits = json.loads((folder / "splits_final.json").read_text())
    for split in splits:
        for side in split:
            split[side] = [case for case in split[side] if not case.startswith("lung_005")]
    (folder / "splits_final.json").write_text(json.dumps(splits))
    return folder


def to_test_set(folder, case: str, new: str, labelled: bool = True) -> None:
    """Moves a case of patient 5, who is in no fold, to the test set."""
    shutil.move(folder / "imagesTr" / f"{case}_0000.nii.gz", folder / "imagesTs" / f"{new}_0000.nii.gz")
    label = folder / "labelsTr" / f"{case}.nii.gz"
    shutil.move(label, folder / "labelsTs" / f"{new}.nii.gz") if labelled else label.unlink()


def state(folder, **more: str) -> None:
    cases = [path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").iterdir()]
    (folder / "patients.json").write_text(json.dumps({case: case[:8] for case in cases} | more))


def test_a_stated_patient_in_folds_and_test_set_is_a_leak(folder):
    to_test_set(folder, "lung_005_s00", "x1")
    to_test_set(folder, "lung_005_s01", "x2")
    state(folder, x1="lung_005", x2="lung_005")
    assert audit(folder.name).problems == ()
    state(folder, x1="lung_001", x2="lung_005")
    (problem,) = audit(folder.name).problems
    assert problem.leak
    assert "has 1 case of patients who have cases in the folds (first: x1, patient lung_001)" in problem.text


def test_without_labels_to_evaluate_it_is_a_note(folder):
    to_test_set(folder, "lung_005_s00", "x1", labelled=False)
    state(folder, x1="lung_001")
    found = audit(folder.name)
    assert found.problems == ()
    assert any("x1, patient lung_001); results on them are not of unseen patients" in note for note in found.notes)


def test_ids_alone_are_a_note_too(folder):
    to_test_set(folder, "lung_005_s00", "lung_001_s07")
    to_test_set(folder, "lung_005_s01", "lung_006_s00")
    found = audit(folder.name)
    assert found.problems == ()
    (note,) = (note for note in found.notes if "imagesTs" in note)
    assert "1 case of patients" in note
    assert "if the ids say rightly who they are" in note
