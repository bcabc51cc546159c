"""A dataset that grows after augmenting: what the refusal says works, and unchanged generators are used again."""

from __future__ import annotations

import json
import shutil

import pytest

from nnunet_difflung.audit.audit import audit_dataset
from nnunet_difflung.commands.augment import main
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.manifest import read_manifest
from tests.support.commands import OPTIONS
from tests.support.tiny import make_dataset

pytestmark = pytest.mark.usefixtures("no_fsync")


def _edit(path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_the_way_that_the_refusal_names(folders, capsys, fingerprint):
    options = [*OPTIONS, "-np", "1"]
    folder = make_dataset(folders[0], patients=4, slices=1, folds=2)
    main(options)
    for part, end in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        shutil.copy(folder / part / f"lung_001_s00{end}", folder / part / f"lung_001_s01{end}")
    _edit(folder / "dataset.json", lambda content: content.update(numTraining=content["numTraining"] + 1))
    _edit(folder / "splits_final.json", lambda splits: splits[0]["val"].append("lung_001_s01"))
    _edit(folder / "splits_final.json", lambda splits: splits[1]["train"].append("lung_001_s01"))
    with pytest.raises(BadInput, match=r"lung_001_s01 was added.*difflung_remove -d 801.*difflung_augment -d 801"):
        main([*options, "--method", "mat"])
    generators = folders[2] / folder.name / "DiffLung__difflung"
    trained = {fold: (generators / fold / "training_log.jsonl").read_bytes() for fold in ("fold_0", "fold_1")}

    remove(["-d", "801"])
    with pytest.raises(BadInput, match=r"fold_1 holds a generator with other settings or other training data"):
        main(options)
    shutil.rmtree(generators / "fold_1")
    main(options)
    assert (generators / "fold_0" / "training_log.jsonl").read_bytes() == trained["fold_0"], "used again"
    assert (generators / "fold_1" / "training_log.jsonl").read_bytes() != trained["fold_1"]
    runs = {run["fold"]: run["generator"]["training_cases"] for run in read_manifest(folder)["runs"]}
    assert "lung_001_s01" in runs[1]
    assert "lung_001_s01" not in runs[0]
    assert audit_dataset(folder.name, deep=True) == []
