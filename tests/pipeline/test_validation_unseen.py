"""What a fold makes does not depend on its validation cases: with noise in their place it is the same to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.commands.augment import main
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.pipeline import augment as augment_module
from tests.support.commands import AS_EARLIER
from tests.support.segmenters import small_segmenters
from tests.support.tiny import make_dataset, set_paths, tree_hashes, write_array, write_fingerprint

OPTIONS = ["-d", "801", "-f", "0", "-device", "cpu", "--gate", "report", "--max-synthetic", "8", "--preset", "fast"]
TARGETS = ["--target-share", "emphysema=0.3", "ILD=0.3"]
CBMAT = ["--epochs", "1", "--batch-size", "4", "--steps", "2"]


def replace_by_noise(folder: Path) -> None:
    """Replaces every pixel and label of fold 0's validation cases by noise; labels in blocks, as lesions are."""
    rng = np.random.default_rng(0)
    for case in json.loads((folder / "splits_final.json").read_text())[0]["val"]:
        label = folder / "labelsTr" / f"{case}.nii.gz"
        shape = sitk.GetArrayFromImage(sitk.ReadImage(str(label))).shape
        blocks = rng.integers(0, 4, (shape[0], -(-shape[1] // 8), -(-shape[2] // 8)))
        write_array(label, blocks.repeat(8, 1).repeat(8, 2)[:, : shape[1], : shape[2]].astype(np.uint8))
        for image in sorted((folder / "imagesTr").glob(f"{case}_????.nii.gz")):
            write_array(image, rng.integers(-1024, 400, shape).astype(np.int16))


def what_a_run_made(place: Path, noise: bool, dataset: dict, arguments: list[str]) -> dict:
    """Runs the command in ``place``; all it left but for times and the real cases."""
    with pytest.MonkeyPatch.context() as patch:
        folders = set_paths(place, patch)
        write_fingerprint(folders[1])
        small_segmenters(patch, steps=5, least_recall=-1.0)
        patch.setattr(augment_module, "refuse_undertrained", lambda *_: None)  # so short a training may be refused
        folder = make_dataset(folders[0], patients=4, folds=4, size=48, **dataset)
        if noise:
            replace_by_noise(folder)
        main([*OPTIONS, *TARGETS, *arguments])
        manifest = read_manifest(folder)
        results = folders[2] / folder.name
        (report,) = results.rglob("augment_report.json")
        rows = json.loads(report.read_text())["folds"]
        for row in rows:
            row.pop("seconds_of_all_folds_together")
        log = [json.loads(line) for path in results.rglob("training_log.jsonl") for line in path.open()]
        return {
            "cases": manifest["cases"],
            "runs": manifest["runs"],
            "report": rows,
            "weights": [path.read_bytes() for path in sorted(results.rglob("*.safetensors"))],
            "log": [{key: value for key, value in row.items() if key != "seconds"} for row in log],
            "files": {k[len(str(folder)) :]: v for k, v in tree_hashes(folder).items() if "Tr/difflung_" in k},
            "training": json.loads((folder / "splits_final.json").read_text())[0]["train"],
        }


@pytest.mark.parametrize("method", ["cbmat", "copy_paste", "copy_paste with placebo cases"])
@pytest.mark.parametrize(
    "dataset",
    [{"slices": 5}, {"volumes": True, "depth": 5, "channel_names": {"0": "lung_window"}}],
    ids=["slices, HU", "volumes, percentile window"],
)
def test_noise_in_place_of_the_validation_cases_changes_nothing(tmp_path, dataset, method):
    placebo = ["--placebo", "0.5"] if "placebo" in method else []
    arguments = ["--method", method.split()[0], *(CBMAT if method == "cbmat" else placebo)]
    if "volumes" in dataset:  # several lesions in a slice, one of which is large enough for memorisation to be measured
        arguments += AS_EARLIER
    real, noise = (what_a_run_made(tmp_path / str(flag), flag, dataset, arguments) for flag in (False, True))
    assert real["cases"]
    assert len(real["files"]) == 2 * len(real["cases"])
    for case in real["cases"].values():
        judged = case["placebo_quality" if case.get("placebo") else "quality"]
        assert any(row["passes"] in (True, False) for row in judged.values())
        assert any(case["memorisation"].values()) != case.get("placebo", False)
    assert any("placebo" in case for case in real["cases"].values()) == bool(placebo)
    for part, content in real.items():
        assert noise[part] == content, part


@pytest.mark.parametrize("method", ["cbmat", "difflung with placebo cases"])
def test_noise_in_place_of_the_validation_cases_does_not_change_what_the_segmenter_selects(tmp_path, method):
    arguments = ["--method", method.split()[0], *CBMAT, "--candidates", "2", "--memorised", "off"]
    arguments += ["--placebo", "0.3", "--max-synthetic", "4"] if "placebo" in method else []
    real, noise = (what_a_run_made(tmp_path / str(flag), flag, {"slices": 2}, arguments) for flag in (False, True))
    assert len(real["weights"]) == 4, "a generator, and a network for each of three parts of the patients"
    candidates = {case.get("placebo", False): case["selection"]["candidates"] for case in real["cases"].values()}
    assert candidates == ({False: 2, True: 1} if "placebo" in method else {False: 2})
    for part, content in real.items():
        assert noise[part] == content, part


def test_noise_in_place_of_the_validation_cases_does_not_change_the_style_of_lesions_in_volumes(tmp_path):
    dataset = {"volumes": True, "depth": 3, "channel_names": {"0": "lung_window"}}
    arguments = ["--method", "difflung", *CBMAT, "--placebo", "0.3", "--memorised", "off"]
    real, noise = (what_a_run_made(tmp_path / str(flag), flag, dataset, arguments) for flag in (False, True))
    assert any(case.get("placebo") for case in real["cases"].values())
    for part, content in real.items():
        assert noise[part] == content, part
