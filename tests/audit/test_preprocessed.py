"""What nnU-Net will read is compared with the raw dataset: nothing sound is refused, nothing stale is accepted."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from nnunet_difflung.audit import preprocessed as module
from nnunet_difflung.audit.array_files import read_arrays, read_properties
from nnunet_difflung.audit.array_match import image_differs
from nnunet_difflung.audit.audit import audit_table
from nnunet_difflung.audit.preprocessed import compare_preprocessed, preprocessed_problems
from nnunet_difflung.audit.preprocessing import Preprocessing
from tests.support.preprocessing import preprocess, write_plans
from tests.support.tiny import make_dataset

NAME = "Dataset801_Tiny"
EXACT, FINER, COARSER = {"spacing": [0.8, 0.8]}, {"spacing": [0.63, 0.63]}, {"spacing": [1.1, 1.1]}
VOLUMES = {"spacing": [3.4, 0.7, 0.7], "patch_size": [8, 32, 32]}
SIDEWAYS = {"spacing": [0.9, 3.9, 0.7], "patch_size": [32, 8, 32]}
ONE, OTHER = "lung_001_s00", "lung_002_s00"


class Made:
    """A raw dataset with its arrays."""

    def __init__(self, folders: tuple[Path, ...], configurations: dict[str, dict], plans: dict, **dataset):
        self.raw = make_dataset(folders[0], **{"patients": 3, "slices": 1, "size": 40, "splits": False} | dataset)
        self.preprocessed = folders[1] / self.raw.name
        write_plans(self.raw, self.preprocessed, configurations, **plans)
        preprocess(self.raw, self.preprocessed)

    def image(self, name: str) -> Path:
        return self.raw / "imagesTr" / f"{name}_0000.nii.gz"

    def label(self, name: str) -> Path:
        return self.raw / "labelsTr" / f"{name}.nii.gz"

    def arrays(self, name: str, configuration: str = "2d") -> list[Path]:
        folder = self.preprocessed / f"nnUNetPlans_{configuration}"
        return [folder / f"{name}{part}" for part in (".b2nd", "_seg.b2nd", ".pkl")]


@pytest.fixture
def made(folders, no_fsync) -> Callable[..., Made]:
    return lambda configurations, plans=None, **dataset: Made(folders, configurations, plans or {}, **dataset)


@pytest.fixture
def remembers(monkeypatch) -> None:
    """Remembers comparisons of few files, and of files written just now."""
    monkeypatch.setattr(module, "_WORTH", 1)
    monkeypatch.setattr(module, "_SETTLED", 0)


def edit(path: Path, change: Callable[[np.ndarray], None]) -> None:
    image = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(image)
    change(array)
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(path), True)


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


# ---- sound arrays ----


@pytest.mark.parametrize(
    ("configurations", "dataset", "plans"),
    [
        ({"2d": EXACT}, {}, {}),
        ({"2d": FINER}, {}, {}),
        ({"2d": COARSER}, {}, {}),
        ({"2d": EXACT | {"normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [True]}}, {}, {}),
        ({"2d": FINER | {"normalization_schemes": ["NoNormalization"]}}, {}, {}),
        ({"2d": FINER, "3d_fullres": VOLUMES}, {"volumes": True, "depth": 9}, {}),
        ({"3d_fullres": SIDEWAYS}, {"volumes": True, "depth": 9}, {"transpose_forward": [2, 0, 1]}),
        ({"2d": FINER, "3d_fullres": {"inherits_from": "2d"}}, {"channels": 2, "ignore": True}, {}),
        ({"2d": EXACT}, {"file_ending": ".nrrd"}, {}),
        ({"2d": {"spacing": [1.0, 1.0]}}, {"file_ending": ".png"}, {"image_reader_writer": "NaturalImage2DIO"}),
    ],
)
def test_arrays_that_nnunet_has_just_made_are_accepted(made, configurations, dataset, plans):
    made(configurations, plans, **dataset)
    comparison = compare_preprocessed(NAME)
    assert comparison.problems == ()
    assert comparison.notes == ()


def test_a_crop_to_what_is_not_zero_is_followed(made):
    dataset = made({"2d": EXACT})
    edit(dataset.image(ONE), lambda array: array.__setitem__((..., slice(0, 7), slice(None)), 0))
    edit(dataset.image(ONE), lambda array: array.__setitem__((..., slice(None), slice(33, None)), 0))
    preprocess(dataset.raw, dataset.preprocessed, ONE)
    assert read_properties(dataset.arrays(ONE)[2])["bbox_used_for_cropping"] == [[0, 1], [7, 40], [0, 33]]
    assert preprocessed_problems(NAME) == []


def test_arrays_in_nnunets_earlier_format_are_read(made):
    dataset = made({"2d": FINER})
    for name in (ONE, OTHER, "lung_003_s00"):
        image, label, _ = read_arrays(dataset.arrays(name)[0].parent, name)
        np.savez_compressed(dataset.arrays(name)[0].with_suffix(".npz"), data=image, seg=label)
        for path in dataset.arrays(name)[:2]:
            path.unlink()
    assert preprocessed_problems(NAME) == []
    edit(dataset.label(ONE), lambda array: array.__setitem__(array == 2, 3))
    assert "another label map in lung_001_s00" in " ".join(p.text for p in preprocessed_problems(NAME))


def _other_plans(dataset: Made, mean: float) -> None:
    """Writes other plans that share the arrays' folder and whose name comes first, as ResEnc's plans share it."""
    plans = json.loads((dataset.preprocessed / "nnUNetPlans.json").read_text())
    plans["plans_name"] = "aPlans"
    plans["foreground_intensity_properties_per_channel"]["0"]["mean"] = mean
    (dataset.preprocessed / "aPlans.json").write_text(json.dumps(plans))


def test_arrays_are_judged_by_the_plans_that_they_are_used_with(made):
    dataset = made({"2d": EXACT})
    _other_plans(dataset, -300.0)
    folder = dataset.preprocessed / "nnUNetPlans_2d"
    assert preprocessed_problems(NAME) == [], "some plans fit"
    assert compare_preprocessed(NAME, folder, plans="nnUNetPlans").problems == ()
    (problem,) = compare_preprocessed(NAME, folder, plans="aPlans").problems
    assert "another image" in problem.text
    assert "nnUNetv2_preprocess -d 801 -plans_name aPlans -c 2d" in problem.text
    _swapped_arrays(dataset)
    found = preprocessed_problems(NAME)
    assert found, "no plans fit"
    assert all("-plans_name aPlans" in problem.text for problem in found)


def test_a_label_where_the_image_is_zero_counts_for_the_mask_as_in_nnunet(made):
    settings = {"normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [True]}
    dataset = made({"2d": EXACT | settings})
    edit(dataset.image(ONE), lambda array: array.__setitem__((..., slice(1, 7), slice(5, 20)), 0))
    edit(dataset.image(ONE), lambda array: array.__setitem__((..., 0, slice(5, 20)), 0))
    edit(dataset.label(ONE), lambda array: array.__setitem__((..., slice(2, 5), slice(8, 12)), 2))
    preprocess(dataset.raw, dataset.preprocessed, ONE)
    assert preprocessed_problems(NAME) == []


def test_cases_that_are_no_longer_in_the_dataset_are_not_trained_on(made):
    dataset = made({"2d": EXACT})
    for path in (dataset.image(ONE), dataset.label(ONE)):
        path.unlink()
    folder = dataset.preprocessed / "nnUNetPlans_2d"
    (problem,) = compare_preprocessed(NAME, folder, [ONE, OTHER]).problems
    assert f"{ONE}, for this training, is preprocessed but not in {dataset.raw}" in problem.text
    assert compare_preprocessed(NAME, folder, [OTHER]).problems == ()
    assert preprocessed_problems(NAME) == []


def test_labels_that_lie_elsewhere_are_compared_under_their_ids(made):
    dataset = made({"2d": EXACT}, dataset_key=True)
    content = json.loads((dataset.raw / "dataset.json").read_text())
    (dataset.raw / "elsewhere").mkdir()
    shutil.move(dataset.label(ONE), dataset.raw / "elsewhere" / "seg.nii.gz")
    content["dataset"][ONE]["label"] = "elsewhere/seg.nii.gz"
    (dataset.raw / "dataset.json").write_text(json.dumps(content))
    assert preprocessed_problems(NAME) == []
    shutil.copy(dataset.label(OTHER), dataset.preprocessed / "gt_segmentations" / f"{ONE}.nii.gz")
    (problem,) = preprocessed_problems(NAME)
    assert f"other label maps than the raw dataset for {ONE};" in problem.text


@pytest.mark.usefixtures("remembers")
def test_what_is_remembered_is_compared_anew_when_asked(made, monkeypatch):
    made({"2d": EXACT})
    compare_preprocessed(NAME)
    compared = []
    usual = Preprocessing.difference
    monkeypatch.setattr(Preprocessing, "difference", lambda self, case: compared.append(case) or usual(self, case))
    compare_preprocessed(NAME)
    assert compared == []
    compare_preprocessed(NAME, anew=True)
    assert len(compared) == 3


# ---- arrays of something else ----


def _lesion_elsewhere(dataset: Made) -> None:
    def move(array: np.ndarray) -> None:
        array[:] = np.where(array == 3, 1, array)
        where = np.argwhere(array == 1)[:40]
        array[tuple(where.T)] = 3

    edit(dataset.label(ONE), move)


def _another_texture(dataset: Made) -> None:
    rng = np.random.default_rng(5)
    where = sitk.GetArrayFromImage(sitk.ReadImage(str(dataset.label(ONE)))) == 1
    edit(dataset.image(ONE), lambda array: array.__setitem__(where, rng.permutation(array[where])))


def _swapped_cases(dataset: Made) -> None:
    swap(dataset.image(ONE), dataset.image(OTHER))
    swap(dataset.label(ONE), dataset.label(OTHER))


def _swapped_arrays(dataset: Made) -> None:
    for one, other in zip(dataset.arrays(ONE), dataset.arrays(OTHER), strict=True):
        swap(one, other)


def _unreadable(dataset: Made) -> None:
    dataset.arrays(ONE)[0].write_bytes(dataset.arrays(ONE)[0].read_bytes()[:200])


def _other_spacing(dataset: Made) -> None:
    image = sitk.ReadImage(str(dataset.image(ONE)))
    image.SetSpacing((0.81, 0.81, 5.0))
    sitk.WriteImage(image, str(dataset.image(ONE)), True)


FAULTS = {
    "a lesion elsewhere": (_lesion_elsewhere, "another label map"),
    "another texture": (_another_texture, "another image"),
    "images swapped": (lambda d: swap(d.image(ONE), d.image(OTHER)), "another image"),
    "labels swapped": (lambda d: swap(d.label(ONE), d.label(OTHER)), "another label map"),
    "cases swapped": (_swapped_cases, "another label map"),
    "arrays swapped": (_swapped_arrays, "another label map"),
    "image arrays swapped": (lambda d: swap(d.arrays(ONE)[0], d.arrays(OTHER)[0]), "another image"),
    "positions swapped": (lambda d: swap(d.arrays(ONE)[2], d.arrays(OTHER)[2]), "other positions of classes"),
    "damaged array": (_unreadable, "missing or cannot be read"),
    "missing array": (lambda d: d.arrays(ONE)[1].unlink(), "missing or cannot be read"),
    "missing image": (lambda d: d.label(ONE).unlink(), "missing or cannot be read"),
    "other spacing": (_other_spacing, "another shape or spacing"),
}


@pytest.mark.parametrize("settings", [EXACT, FINER], ids=["same grid", "resampled"])
@pytest.mark.parametrize("fault", FAULTS)
def test_arrays_made_from_something_else_are_named_with_the_remedy(made, fault, settings):
    dataset = made({"2d": settings}, size=80)
    change, reason = FAULTS[fault]
    change(dataset)
    problems = [problem for problem in preprocessed_problems(NAME) if "gt_segmentations" not in problem.text]
    assert len(problems) == 1
    assert reason in problems[0].text
    assert ONE in problems[0].text
    assert problems[0].leak
    assert "nnUNetv2_preprocess -d 801 -plans_name nnUNetPlans -c 2d" in problems[0].text


def test_plans_of_any_name_are_followed(made):
    built = made({"2d": EXACT})
    (built.preprocessed / "nnUNetPlans.json").rename(built.preprocessed / "mine.json")
    (built.preprocessed / "notes.json").write_text("[1]")
    assert preprocessed_problems(NAME) == []
    for one, other in zip(built.arrays(ONE), built.arrays(OTHER), strict=True):
        swap(one, other)
    assert "were not made from the files of the same name" in preprocessed_problems(NAME)[0].text


def test_a_case_of_other_channels_is_another_shape(made):
    dataset = made({"2d": EXACT})
    shutil.copy(dataset.image(OTHER), dataset.raw / "imagesTr" / f"{ONE}_0001.nii.gz")
    assert "another shape or spacing in lung_001_s00;" in preprocessed_problems(NAME)[0].text


def test_the_labels_of_nnunets_validation_are_compared_too(made):
    dataset = made({"2d": EXACT})
    shutil.copy(dataset.label(OTHER), dataset.preprocessed / "gt_segmentations" / f"{ONE}.nii.gz")
    (problem,) = preprocessed_problems(NAME)
    assert "gt_segmentations holds other label maps than the raw dataset for lung_001_s00;" in problem.text
    shutil.rmtree(dataset.preprocessed / "gt_segmentations")  # the remedy: nnU-Net copies the labels again
    preprocess(dataset.raw, dataset.preprocessed)
    assert preprocessed_problems(NAME) == []


def test_only_the_wanted_folder_and_cases_are_compared(made):
    dataset = made({"2d": EXACT, "other": EXACT})
    _swapped_arrays(dataset)
    assert compare_preprocessed(NAME, dataset.preprocessed / "nnUNetPlans_other").problems == ()
    folder = dataset.preprocessed / "nnUNetPlans_2d"
    assert compare_preprocessed(NAME, folder, ["lung_003_s00"]).problems == ()
    assert len(compare_preprocessed(NAME, folder).problems) == 1


# ---- what cannot be compared ----


def test_without_the_raw_dataset_a_note_says_what_was_not_compared(made):
    shutil.rmtree(made({"2d": EXACT}).raw)
    comparison = compare_preprocessed(NAME)
    assert comparison.problems == ()
    assert comparison.notes == ("the raw dataset is not here, so the preprocessed arrays were not compared with it",)


@pytest.mark.parametrize("settings", [{"preprocessor_name": "MyOwn"}, {"normalization_schemes": ["MyOwn"]}])
def test_arrays_of_an_unknown_preprocessing_are_a_note(made, settings):
    dataset = made({"2d": EXACT})
    write_plans(dataset.raw, dataset.preprocessed, {"2d": EXACT | settings})
    comparison = compare_preprocessed(NAME)
    assert comparison.problems == ()
    assert len(comparison.notes) == 1
    assert "MyOwn" in comparison.notes[0]


class _Runs:
    def __reduce__(self):
        return os.mkdir, ("made_by_a_pickle",)


def test_a_pickle_that_calls_something_is_not_run(made, tmp_path, monkeypatch):
    dataset = made({"2d": EXACT})
    dataset.arrays(ONE)[2].write_bytes(pickle.dumps({"spacing": _Runs()}))
    monkeypatch.chdir(tmp_path)
    assert "missing or cannot be read" in preprocessed_problems(NAME)[0].text
    assert not (tmp_path / "made_by_a_pickle").exists()


# ---- remembered ----


def test_what_was_compared_is_not_read_again_until_a_file_changes(made, remembers, monkeypatch):
    dataset = made({"2d": EXACT})
    assert preprocessed_problems(NAME) == []
    compared = []
    difference = Preprocessing.difference
    monkeypatch.setattr(Preprocessing, "difference", lambda self, case: compared.append(case) or difference(self, case))
    assert preprocessed_problems(NAME) == []
    assert compared == []
    before = os.stat(dataset.image(ONE))
    _another_texture(dataset)
    os.utime(dataset.image(ONE), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "another image in lung_001_s00;" in preprocessed_problems(NAME)[0].text
    assert [case.identifier for case in compared] == [ONE]
    assert "another image in lung_001_s00;" in preprocessed_problems(NAME)[0].text  # a difference is not remembered


def test_swapped_files_are_compared_again(made, remembers):
    dataset = made({"2d": EXACT})
    assert preprocessed_problems(NAME) == []
    _swapped_cases(dataset)
    assert "another label map in lung_001_s00, lung_002_s00;" in preprocessed_problems(NAME)[0].text


def test_other_plans_are_compared_again(made, remembers):
    dataset = made({"2d": EXACT})
    assert preprocessed_problems(NAME) == []
    write_plans(dataset.raw, dataset.preprocessed, {"2d": EXACT | {"normalization_schemes": ["ZScoreNormalization"]}})
    assert "another image in" in preprocessed_problems(NAME)[0].text


# ---- in the audit ----


def test_the_audit_lists_arrays_made_from_something_else_as_leaks(made):
    dataset = made({"2d": EXACT})
    assert audit_table(NAME, deep=True)["problems"] == []
    _swapped_arrays(dataset)
    table = audit_table(NAME, deep=True)
    assert table["leaks"] == 1
    assert "another label map in lung_001_s00, lung_002_s00;" in table["problems"][0]
    assert audit_table(NAME)["problems"] == []  # --fast


def test_the_audit_says_that_there_was_nothing_to_compare_with(made):
    shutil.rmtree(made({"2d": EXACT}).raw)
    assert (
        "the raw dataset is not here, so the preprocessed arrays were not compared with it"
        in (audit_table(NAME, deep=True)["notes"])
    )


@pytest.mark.parametrize(("power", "differs"), [(0.05, False), (0.5, True)])
def test_a_window_of_a_resampled_image_may_differ_by_little(power, differs):
    rng = np.random.default_rng(0)
    source = ndimage.gaussian_filter(rng.standard_normal((1, 40, 40)), (0, 1.5, 1.5))
    source /= source.std()
    array = ndimage.zoom(source, (1, 1.5, 1.5), order=3, mode="nearest", grid_mode=True)
    other = rng.standard_normal((8, 8))
    array[0, 16:24, 24:32] += other / other.std() * array[0, 16:24, 24:32].std() * power**0.5
    assert image_differs(source[None], array[None]) is differs
