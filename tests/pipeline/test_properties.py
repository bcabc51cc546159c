"""What has to hold whatever the patients, folds, methods and targets are: read back from the files alone.

Nothing of the package judges here: files, splits and shares are read as nnU-Net would read them, so that a fault which
the package's own audit shares with its synthesis does not hide.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import SimpleITK as sitk
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nnunet_difflung.commands.augment import main as augment
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.injection.inject import inject
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import PATH_VARIABLES
from tests.support.staging import stage_cases
from tests.support.tiny import LABELS, make_dataset, tree_hashes

SLOW = settings(
    deadline=None, max_examples=10, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)  # shrinking would run the commands for minutes


@st.composite
def grouped_folds(draw) -> tuple[int, int, list[list[int]]]:
    """Patients, slices of each, and the validation patients of some folds: disjoint or not, of any size."""
    patients = draw(st.integers(3, 6))
    folds = draw(st.lists(st.sets(st.integers(1, patients), min_size=1, max_size=patients - 1), min_size=1, max_size=4))
    return patients, draw(st.integers(1, 2)), [sorted(fold) for fold in folds]


class Place:
    """nnU-Net's folders with a tiny dataset, for the length of an example."""

    def __init__(self, patients: int, slices: int, held_out: list[list[int]]) -> None:
        """Writes the dataset, with a fold for each list of validation patients."""
        self.temporary = tempfile.TemporaryDirectory()
        paths = {name: str(Path(self.temporary.name) / name) for name in PATH_VARIABLES}
        for path in paths.values():
            Path(path).mkdir()
        self.environment = mock.patch.dict(os.environ, paths)
        self.folder = make_dataset(paths["nnUNet_raw"], patients=patients, slices=slices, size=40, splits=False)
        self.preprocessed = Path(paths["nnUNet_preprocessed"]) / self.folder.name
        self.preprocessed.mkdir()
        (self.preprocessed / "dataset_fingerprint.json").write_text("{}")  # nnU-Net takes seconds for a real one
        names = [f"lung_{p:03d}_s{s:02d}" for p in range(1, patients + 1) for s in range(slices)]
        self.folds = [
            {"train": [n for n in names if int(n[5:8]) not in fold], "val": [n for n in names if int(n[5:8]) in fold]}
            for fold in held_out
        ]
        (self.folder / "splits_final.json").write_text(json.dumps(self.folds))

    def __enter__(self) -> Place:
        self.environment.__enter__()
        return self

    def __exit__(self, *error) -> None:
        self.environment.__exit__(*error)
        self.temporary.cleanup()

    def label(self, case: str) -> np.ndarray:
        """(z, y, x) label values."""
        return sitk.GetArrayFromImage(sitk.ReadImage(str(self.folder / "labelsTr" / f"{case}.nii.gz")))

    def cases(self) -> dict:
        """The manifest's synthetic cases."""
        return json.loads((self.folder / "difflung_manifest.json").read_text())["cases"]

    def check_folds(self) -> None:
        """Every synthetic case trains its own fold and no other, and none of its sources' patients is validated on."""
        splits = json.loads((self.folder / "splits_final.json").read_text())
        real = [{side: [i for i in fold[side] if not i.startswith("difflung_")] for side in fold} for fold in splits]
        assert real == self.folds
        for number, fold in enumerate(splits):
            held_out = {i[:8] for i in fold["val"]}
            assert not [i for i in fold["val"] if i.startswith("difflung_")]
            synthetic = [i for i in fold["train"] if i.startswith("difflung_")]
            assert sorted(synthetic) == sorted(i for i, c in self.cases().items() if c["fold"] == number)
            sources = [s for i in synthetic for s in [*self.cases()[i]["sources"], self.cases()[i]["host"]]]
            assert not {s[:8] for s in sources} & held_out
        files = {f.name.removesuffix(".nii.gz") for f in (self.folder / "labelsTr").glob("difflung_*")}
        assert files == set(self.cases())


@SLOW
@given(grouped_folds(), st.data())
def test_no_synthetic_case_trains_another_fold_or_is_validated_on(cohort, data):
    with Place(*cohort) as place:
        before = tree_hashes(place.folder)
        raw = open_raw_dataset("801")
        pairs = data.draw(
            st.lists(
                st.tuples(st.integers(0, len(place.folds) - 1), st.sampled_from(sorted(METHODS))),
                min_size=1,
                max_size=4,
                unique=True,
            )
        )
        for number, (fold, method) in enumerate(pairs):
            inject(open_raw_dataset("801") if number else raw, *stage_cases(raw, method, fold, count=2))
            place.check_folds()
        assert len(place.cases()) == 2 * len(pairs)
        remove(["-d", "801"])
        assert tree_hashes(place.folder) == before


@SLOW
@given(grouped_folds(), st.integers(0, 99), st.floats(0.05, 0.3), st.integers(1, 6), st.data())
def test_painted_cases_hold_what_was_planned(cohort, seed, target, bound, data):
    with Place(*cohort) as place:
        fold = data.draw(st.integers(0, len(place.folds) - 1))
        augment(
            [
                "-d",
                "801",
                "-f",
                str(fold),
                "--method",
                "copy_paste",
                "--gate",
                "off",
                "-device",
                "cpu",
                "--seed",
                str(seed),
                "--max-synthetic",
                str(bound),
                "--target-share",
                f"emphysema={target}",
                f"ILD={target}",
            ]
        )
        if not (place.folder / "difflung_manifest.json").is_file():
            return  # the targets were met by the real cases
        place.check_folds()
        counts = {
            name: sum(int((place.label(i) == LABELS[name]).sum()) for i in place.folds[fold]["train"])
            for name in ("normal_lung", "emphysema", "ILD")
        }
        (run,) = json.loads((place.folder / "difflung_manifest.json").read_text())["runs"]
        assert run["summary"]["voxels_before"] == counts
        for identifier, case in place.cases().items():
            label, host = place.label(identifier), place.label(case["host"])
            changed = label != host
            assert (host[changed] == LABELS["normal_lung"]).all()
            assert set(label[changed]) <= {LABELS["emphysema"], LABELS["ILD"]}
            assert sorted(set(np.flatnonzero(changed.any((1, 2))))) == case["slices"]
            counts = {name: n + int((label == LABELS[name]).sum()) for name, n in counts.items()}
        assert run["summary"]["voxels_planned"] == counts
        assert sum(len(case["slices"]) for case in place.cases().values()) <= bound
