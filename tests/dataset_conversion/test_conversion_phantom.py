"""The chest phantom: reproducible, with the stated class shares and plausible HU, in nnU-Net's format."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset.splits import patient_folds, splits_from_folds
from nnunet_difflung.dataset_conversion import Dataset800_ChestPhantom as phantom
from nnunet_difflung.dataset_conversion.output.writer import class_shares
from nnunet_difflung.dataset_conversion.phantom.anatomy import Thorax, draw_patient
from nnunet_difflung.dataset_conversion.phantom.body import Canvas
from nnunet_difflung.dataset_conversion.phantom.classic import ClassicPainter
from nnunet_difflung.dataset_conversion.phantom.cohort import SHARES, CohortSettings, calibrate
from nnunet_difflung.dataset_conversion.phantom.fields import pixel_centres
from nnunet_difflung.dataset_conversion.phantom.lesions import LABELS, majority, read
from nnunet_difflung.dataset_conversion.phantom.vessels import grow_tree
from nnunet_difflung.errors import BadInput

SMALL = phantom.PhantomSettings(CohortSettings(patients=8, test_patients=2, slices=3), size=64)
CLASSIC = phantom.PhantomSettings(CohortSettings(patients=8, test_patients=2, slices=3, classic=True), size=64)
TINY = phantom.PhantomSettings(CohortSettings(patients=3, test_patients=1, slices=2), size=32)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def arrays(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    labels = sorted((folder / f"labels{part}").iterdir())
    images = [folder / f"images{part}" / p.name.replace(".nii.gz", "_0000.nii.gz") for p in labels]
    return tuple(
        np.concatenate([sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in paths]) for paths in (images, labels)
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[Path, list]:
    """A dataset for several tests, which nnU-Net checks when it is written."""
    folder = tmp_path_factory.mktemp("raw")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_raw", str(folder))
        records = phantom.build_phantom(SMALL, "Dataset800_ChestPhantom", processes=1)
    return folder / "Dataset800_ChestPhantom", records


def test_shares_are_the_papers_measured_from_the_files(small):
    folder, records = small
    _images, labels = arrays(folder, "Tr")
    measured = np.bincount(labels.ravel(), minlength=4) / labels.size
    assert measured == pytest.approx(class_shares(records))
    for name, share in SHARES.items():
        assert measured[LABELS[name]] == pytest.approx(share, rel=0.10), name


@pytest.fixture(scope="module")
def classic() -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of the classic phantom's training slices."""
    extent = calibrate(CLASSIC.cohort, CLASSIC.size)
    cases = [c for i in range(CLASSIC.cohort.patients) for c in phantom.phantom_cases(CLASSIC, extent, False, i)]
    return np.concatenate([case.image for case in cases]), np.concatenate([case.label for case in cases])


@pytest.mark.parametrize("kind", ["small", "classic"])
def test_hu_are_plausible_and_classes_differ(kind, request):
    made = request.getfixturevalue(kind)
    images, labels = made if kind == "classic" else arrays(made[0], "Tr")
    assert images.dtype == np.int16
    assert images.min() >= -1024
    corner = images[:, :3, :3]
    assert corner.mean() == pytest.approx(-1000, abs=10)
    normal, emphysema, ild = (np.median(images[labels == k]) for k in (1, 2, 3))
    assert -900 < normal < -780
    assert -965 < emphysema < normal - (30 if kind == "classic" else 5)  # a texture differs less in its level
    assert -700 < ild < -400
    assert 200 < np.percentile(images[labels == 0], 99) < 1200  # bones


@pytest.mark.parametrize(
    ("size", "digest"),
    [
        (32, "9d7a0931ccfb98c0bb38266650f57a6a9522bca41f8347bed15f68584988eb63"),
        (64, "1d12130e206e5338ad7c95a77abdc065975769caa6d83deed357991114d5085b"),
    ],
)
def test_the_classic_phantom_is_that_of_earlier_versions(size, digest):
    settings = phantom.PhantomSettings(CohortSettings(3, 1, 2, classic=True), size)
    extent, found = calibrate(settings.cohort, size), hashlib.sha256()
    for test, index in ((False, 0), (False, 1), (False, 2), (True, 0)):
        for case in phantom.phantom_cases(settings, extent, test, index):
            found.update(case.image.tobytes() + case.label.tobytes())
    assert found.hexdigest() == digest


def test_emphysema_is_not_a_matter_of_a_threshold(small):
    images, labels = arrays(small[0], "Tr")
    lung, truth = images[labels > 0], labels[labels > 0] == LABELS["emphysema"]
    dice = [2 * (truth & (lung < t)).sum() / (truth.sum() + (lung < t).sum()) for t in range(-980, -840, 5)]
    assert max(dice) < 0.6


def test_emphysema_replaces_the_lung_around_it_whatever_its_hu():
    """Blended in, not added: where all tissue is emphysema, the HU of normal lung and cysts do not shine through."""
    patient = draw_patient((0, 0, 0), True)
    truth, canvas = np.full((48, 48), LABELS["emphysema"]), Canvas(pixel_centres(48))
    painted = []
    for normal_hu in (-900.0, -700.0):
        painter = ClassicPainter(Thorax(replace(patient, normal_hu=normal_hu), 1.0), 5.0)
        painter.vessels, painter.airways = painter.vessels[:0], painter.airways[:0]
        painted.append(painter.lung(canvas, truth, -100.0, np.random.default_rng(1)))
    inside = (slice(8, -8), slice(8, -8))
    assert painted[0][inside] == pytest.approx(painted[1][inside], abs=0.01)
    assert (painted[0][inside] > painter.emphysema_hu - 23).all()
    assert (painted[0][inside] < painter.emphysema_hu + 55).all()


def test_folds_are_grouped_by_patient_and_every_training_part_has_every_class(small):
    folder, records = small
    splits = json.loads((folder / "splits_final.json").read_text())
    voxels = {r.case_id: np.array(r.voxels) for r in records if not r.test}
    assert len(splits) == 5
    assert sorted(c for fold in splits for c in fold["val"]) == sorted(voxels)
    for fold in splits:
        patients = [{re.fullmatch(r"(.+?)_s\d+", case)[1] for case in fold[part]} for part in ("train", "val")]
        assert not patients[0] & patients[1]
        assert sorted(fold["train"] + fold["val"]) == sorted(voxels)
        assert (sum(voxels[c] for c in fold["train"]) > 0).all()


def test_description_and_test_part_agree_with_the_files(small):
    folder, records = small
    description = json.loads((folder / "dataset.json").read_text())
    assert description["numTraining"] == len(list((folder / "imagesTr").iterdir())) == 24
    assert description["labels"] == LABELS
    assert description["channel_names"] == {"0": "CT"}
    assert description["overwrite_image_reader_writer"] == "SimpleITKIO"
    assert len(list((folder / "labelsTs").iterdir())) == 6
    assert not {r.patient for r in records if r.test} & {r.patient for r in records if not r.test}
    assert json.loads((folder / "patients.json").read_text()) == {r.case_id: r.patient for r in records}


def test_geometry_in_millimetres(small):
    cases = sorted((small[0] / "imagesTr").glob("phantom_p000_*"))
    images = [sitk.ReadImage(str(p)) for p in cases]
    numbers = [int(re.search(r"_s(\d+)_", p.name)[1]) for p in cases]
    for image in images:
        # the slice is 5 mm thick, but nnU-Net would cut across the pixels if z were not the largest spacing
        assert image.GetSpacing() == pytest.approx((360 / 64, 360 / 64, 2 * 360 / 64))
        assert image.GetOrigin()[0] == pytest.approx(-180 + 360 / 128)
    heights = [image.GetOrigin()[2] for image in images]
    assert np.diff(heights) == pytest.approx(np.diff(numbers))
    assert len(set(np.diff(numbers))) == 1
    assert np.diff(numbers)[0] > 50


def test_same_seed_same_bytes_whatever_the_processes(raw_folder):
    records, records_of_two_processes = (
        phantom.build_phantom(TINY, f"Dataset80{k}_A", processes=k, verify=False) for k in (1, 2)
    )
    assert records == records_of_two_processes
    first, second = digests(raw_folder / "Dataset801_A"), digests(raw_folder / "Dataset802_A")
    same = [name for name in first if not name.endswith(("dataset.json", "conversion_report.html"))]  # name the dataset
    assert len(same) == 2 * 8 + 5  # images and labels, splits, patients, what they have, the report and its sheet
    assert all(first[name] == second[name] for name in same)


def test_another_seed_gives_other_patients():
    other_seed = phantom.PhantomSettings(CohortSettings(3, 1, 2, seed=1), 32)
    extent = calibrate(TINY.cohort, 32)
    a, b = (phantom.phantom_cases(settings, extent, False, 0)[0].image for settings in (TINY, other_seed))
    assert np.abs(a.astype(int) - b).mean() > 20


def test_anatomy_does_not_depend_on_the_number_of_pixels():
    extent = calibrate(TINY.cohort, 32)
    sharp = phantom.PhantomSettings(CohortSettings(3, 1, 2, label_noise=0), 128)
    coarse = phantom.PhantomSettings(CohortSettings(3, 1, 2, label_noise=0), 32)
    a, b = (phantom.phantom_cases(settings, extent, False, 0)[0] for settings in (sharp, coarse))
    lung = majority((a.label[0] > 0).astype(np.uint8), 4, 2)
    assert (lung == (b.label[0] > 0)).mean() > 0.98
    means = a.image[0].reshape(32, 4, 32, 4).mean(axis=(1, 3))
    assert np.corrcoef(means.ravel(), b.image[0].ravel())[0, 1] > 0.98


def test_volumes_are_one_case_per_patient_with_true_distances(raw_folder):
    settings = phantom.PhantomSettings(CohortSettings(2, 0, 4), 32, volumes=True)
    records = phantom.build_phantom(settings, processes=1, verify=False)
    assert [r.case_id for r in records] == ["phantom_p000", "phantom_p001"]
    image = sitk.ReadImage(str(raw_folder / "Dataset800_ChestPhantom" / "imagesTr" / "phantom_p000_0000.nii.gz"))
    assert image.GetSize() == (32, 32, 4)
    assert image.GetSpacing()[2] > 20  # four slices over the whole lungs


def test_reader_without_noise_is_the_truth_and_with_noise_strays_a_little():
    truth = np.zeros((128, 128), np.uint8)
    truth[20:110, 20:110] = 1
    truth[40:70, 40:70] = 3
    rng = np.random.default_rng(0)
    assert (read(truth, 128, 0.0, rng) == truth).all()
    seen = read(truth, 128, 1.0, rng)
    changed = (seen != truth).mean()
    assert 0.001 < changed < 0.05


def test_tree_obeys_murray_and_reaches_every_target():
    rng = np.random.default_rng(0)
    targets = rng.uniform(-50, 50, (40, 3))
    tree = grow_tree(np.zeros(3), targets, 0.5, rng)
    reached = np.linalg.norm(tree[:, None, 3:6] - targets[None], axis=2).min(axis=0)
    assert reached == pytest.approx(0, abs=1e-6)
    starts = {tuple(p) for p in tree[:, :3]}
    leaves = [edge for edge in tree if tuple(edge[3:6]) not in starts]
    from_root = tree[(tree[:, :3] == 0).all(axis=1)]
    assert (from_root[:, 7] ** 3).sum() == pytest.approx(len(leaves) * 0.5**3)


def test_folds_deal_a_rare_class_apart():
    voxels = {f"p{i}": [10, 5 if i in (1, 2, 3) else 0] for i in range(10)}
    for seed in range(5):
        folds = patient_folds(voxels, seed)
        assert sorted(len(f) for f in folds) == [2] * 5
        assert max(sum(voxels[p][1] > 0 for p in fold) for fold in folds) == 1
    assert patient_folds(voxels, 3) == patient_folds(voxels, 3) != patient_folds(voxels, 4)


def test_a_single_patient_is_one_fold():
    assert splits_from_folds(patient_folds({"a": [1]}, 0), {"a_s1": "a"}) == [{"train": ["a_s1"], "val": ["a_s1"]}]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--size", "4"], "--size 4"),
        (["--dataset-id", "1000"], "--dataset-id"),
        (["--patients", "0"], "--patients 0"),
        (["-np", "0"], "-np 0"),
        (["--name", "a b"], "--name"),
        (["--spacing", "-1"], "--spacing"),
        (["--classic", "--forms", "severe"], "--forms"),
    ],
)
def test_bad_options_are_one_line_and_code_2(raw_folder, capsys, options, part):
    with pytest.raises(SystemExit) as stop:
        phantom.main(["--patients", "2", "--test-patients", "0", "--slices", "1", "--size", "16", *options])
    error = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2
    assert error[-1].startswith("Error: ")
    assert part in error[-1]
    assert not list(raw_folder.iterdir())


def test_an_existing_dataset_is_kept_unless_overwritten(raw_folder):
    tiny = phantom.PhantomSettings(CohortSettings(2, 0, 1), 16)
    (raw_folder / "Dataset800_ChestPhantom").mkdir()
    (raw_folder / "Dataset800_ChestPhantom" / "mine").touch()
    with pytest.raises(BadInput, match="--overwrite"):
        phantom.build_phantom(tiny, processes=1, verify=False)
    assert [p.name for p in raw_folder.rglob("*")] == ["Dataset800_ChestPhantom", "mine"]
    phantom.build_phantom(tiny, processes=1, verify=False, overwrite=True)
    assert sorted(p.name for p in raw_folder.iterdir()) == ["Dataset800_ChestPhantom"]
    assert not (raw_folder / "Dataset800_ChestPhantom" / "mine").exists()


def test_an_interrupted_run_leaves_nothing(raw_folder, monkeypatch):
    def stop(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(phantom, "finish_dataset", stop)
    with pytest.raises(KeyboardInterrupt):
        phantom.build_phantom(phantom.PhantomSettings(CohortSettings(2, 0, 1), 16), processes=1)
    assert not list(raw_folder.iterdir())


def test_an_id_taken_by_another_name_is_refused(raw_folder):
    (raw_folder / "Dataset800_Other").mkdir()
    with pytest.raises(BadInput, match="Dataset800_Other"):
        phantom.build_phantom(TINY, processes=1)
