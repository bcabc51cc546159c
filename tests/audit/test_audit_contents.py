"""The audit looks at what files hold: renamed, swapped, added and changed cases, the test set, rewritten records."""

from __future__ import annotations

import gzip
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.audit.audit import Audit, audit
from nnunet_difflung.dataset import contents as contents_module
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.injection import leaks as leaks_module
from nnunet_difflung.injection.inject import inject
from nnunet_difflung.injection.leaks import Problem
from nnunet_difflung.injection.manifest import MANIFEST
from nnunet_difflung.injection.removal import remove
from nnunet_difflung.paths import cache_folder
from nnunet_difflung.runtime.files import read_json, sha256, write_json
from tests.support.staging import plan_like_nnunet, stage_cases
from tests.support.tiny import make_dataset, write_array

FIRST = "difflung_cbmat_f0_0000"
HELD_OUT, HOST, DONOR = "lung_001_s00", "lung_002_s00", "lung_003_s00"  # validation, training, training of fold 0


@pytest.fixture
def raw(folders, no_fsync) -> RawDataset:
    """Fold 0 has two synthetic cases; the first was made from ``HOST`` with a lesion of ``DONOR``."""
    return augmented(folders)


@pytest.fixture
def planned(raw) -> RawDataset:
    """``raw``, whose manifest is older than the plans."""
    edit(raw, MANIFEST, lambda manifest: manifest.update(created="2026-01-01T00:00:00+00:00"))
    return raw


def augmented(folders: tuple[Path, Path, Path], **options) -> RawDataset:
    make_dataset(folders[0], patients=4, slices=2, size=16, folds=4, **options)
    raw = open_raw_dataset("801")
    plan_like_nnunet(raw)
    cases, run = stage_cases(raw)
    cases[0].record.update(sources=[HOST, DONOR], operations=[{"donor": DONOR, "pathology": "ILD"}])
    inject(raw, cases, run)
    card = {"training_cases": run["generator"]["training_cases"]}
    manifest = read_json(raw.folder / MANIFEST)
    if "contents" in manifest:
        card["training_files"] = contents_module.digest_of(manifest["contents"], card["training_cases"])
    write_json(card_of(raw), card)
    assert audit(raw.name).problems == ()
    return raw


def card_of(raw: RawDataset) -> Path:
    return raw.folder.parent.parent / "nnUNet_results" / raw.name / "DiffLung__cbmat" / "fold_0" / "generator.json"


def edit(raw: RawDataset, name: str, change: Callable) -> None:
    """Changes a JSON file in the raw and in the preprocessed folder."""
    for folder in (raw.folder, raw.preprocessed):
        content = read_json(folder / name)
        change(content)
        write_json(folder / name, content)


def image(raw: RawDataset, case: str, channel: int = 0) -> Path:
    return raw.folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz"


def label(raw: RawDataset, case: str) -> Path:
    return raw.folder / "labelsTr" / f"{case}.nii.gz"


def swap(first: Path, second: Path) -> None:
    other = first.with_name("other")
    first.rename(other)
    second.rename(first)
    other.rename(second)


def rewrite(path: Path) -> None:
    """Writes a file anew with one voxel changed, as a correction would."""
    content = sitk.ReadImage(str(path))
    content[0, 0, 0] = 1
    sitk.WriteImage(content, str(path), True)


def rename(raw: RawDataset, case: str, to: str) -> None:
    for source, target in ((image(raw, case), image(raw, to)), (label(raw, case), label(raw, to))):
        shutil.move(source, target)


def lines(result: Audit, part: str) -> list[Problem]:
    return [problem for problem in result.problems if part in problem.text]


def only(result: Audit, part: str) -> Problem:
    """The problem with this text; there is none without it that could have been meant."""
    matching = lines(result, part)
    assert matching, [problem.text for problem in result.problems]
    return matching[0]


# ---- real cases ----


@pytest.mark.parametrize("side", ["train", "val"])
def test_a_real_case_added_after_augmenting_and_listed_is_a_leak(raw, side):
    for path in (image, label):
        shutil.copy(path(raw, HOST), path(raw, "lung_002_s99"))
        rewrite(path(raw, "lung_002_s99"))
    edit(raw, "splits_final.json", lambda splits: splits[0][side].append("lung_002_s99"))
    problem = only(audit(raw.name), "lung_002_s99, which the manifest does not name")
    assert problem.leak
    assert problem.fold == 0


def test_a_real_case_that_no_fold_lists_is_a_problem(raw):
    for path in (image, label):
        shutil.copy(path(raw, HOST), path(raw, "new_case"))
        rewrite(path(raw, "new_case"))
    assert "new_case" in only(audit(raw.name), "added or renamed after the synthetic cases").text
    for path in (image, label):
        path(raw, "new_case").unlink()
    assert audit(raw.name).problems == ()


@pytest.mark.parametrize("origin", [HOST, DONOR, "lung_004_s01"], ids=["host", "donor", "of the generator only"])
def test_a_case_that_was_renamed_and_moved_to_validation_is_a_leak(raw, origin):
    rename(raw, origin, "control_01")

    def move(splits: list) -> None:
        for split in splits:
            for side in split.values():
                side[:] = [name for name in side if name != origin]
            split["train"].append("control_01")
        splits[0]["train"].remove("control_01")
        splits[0]["val"].append("control_01")

    edit(raw, "splits_final.json", move)
    problem = only(audit(raw.name), f"control_01 holds {origin}")
    assert (problem.fold, problem.leak) == (0, True)


@pytest.mark.parametrize("what", ["image", "label", "both"])
def test_swapped_files_of_a_training_and_a_validation_case_are_a_leak(raw, what):
    for path in {"image": [image], "label": [label], "both": [image, label]}[what]:
        swap(path(raw, HELD_OUT), path(raw, HOST))
    result = audit(raw.name)
    problem = only(result, f"{HELD_OUT} holds {HOST}; {HOST} holds {HELD_OUT}")
    assert (problem.fold, problem.leak) == (0, True)
    assert {problem.fold for problem in result.problems} == {0, 1}, "fold 1 validates on the host"


def test_a_swapped_channel_is_a_leak(folders, no_fsync):
    raw = augmented(folders, channels=2)
    swap(image(raw, HELD_OUT, 1), image(raw, HOST, 1))
    assert only(audit(raw.name), f"{HELD_OUT} holds {HOST}").leak


def test_a_copy_of_a_training_case_over_a_validation_case_is_a_leak(raw):
    shutil.copy(image(raw, HOST), image(raw, HELD_OUT))
    assert only(audit(raw.name), f"{HELD_OUT} holds {HOST}").leak
    assert only(audit(raw.name), "which hold the same image").leak


def test_files_swapped_between_two_training_cases_of_every_fold_are_no_leak_but_a_problem(raw):
    swap(label(raw, HOST), label(raw, "lung_002_s01"))
    result = audit(raw.name)
    assert "swapped, copied or renamed after synthetic cases" in only(result, f"{HOST} holds lung_002_s01").text
    assert result.leaks == 0


@pytest.mark.parametrize("case", [HOST, DONOR])
@pytest.mark.parametrize("path", [image, label])
def test_a_file_that_was_corrected_after_augmenting_is_a_problem(raw, case, path):
    rewrite(path(raw, case))
    problem = only(
        audit(raw.name),
        f"files of real cases were changed after synthetic cases or generators had been made from them: {case}",
    )
    assert "difflung_remove -d Dataset801_Tiny, then difflung_augment -d Dataset801_Tiny" in problem.text


def test_a_donor_that_was_thrown_out_is_a_problem(raw):
    for path in (image, label):
        path(raw, DONOR).unlink()
    edit(
        raw,
        "splits_final.json",
        lambda splits: [s[side].remove(DONOR) for s in splits for side in s if DONOR in s[side]],
    )
    assert DONOR in only(audit(raw.name), "files are missing of real cases").text


def test_a_label_that_is_missing_is_a_problem(raw):
    label(raw, HOST).unlink()
    assert HOST in only(audit(raw.name), "files are missing of real cases").text


def test_a_file_that_was_written_again_to_the_same_bytes_is_none(raw):
    content = image(raw, HOST).read_bytes()
    image(raw, HOST).unlink()
    image(raw, HOST).write_bytes(content)
    assert audit(raw.name).problems == ()


def test_the_dataset_may_move(raw, folders, monkeypatch):
    moved = folders[0].parent / "elsewhere"
    shutil.copytree(folders[0], moved)
    monkeypatch.setenv("nnUNet_raw", str(moved))
    assert audit(raw.name).problems == ()


def test_remedies_name_the_dataset_as_it_is_called_now(raw):
    edit(raw, MANIFEST, lambda manifest: manifest.update(dataset="Dataset800_Before"))
    rewrite(image(raw, HOST))
    assert f"difflung_remove -d {raw.name}" in only(audit(raw.name), "files of real cases were changed").text


@pytest.mark.parametrize("absolute", [False, True])
def test_files_that_dataset_json_lists_are_compared_too(folders, no_fsync, absolute):
    folder = make_dataset(folders[0], patients=4, slices=2, size=16, folds=4, dataset_key=True)
    listed = read_json(folder / "dataset.json")
    shutil.move(folder / "imagesTr", folder.parent / "pictures" if absolute else folder / "pictures")
    for entry in listed["dataset"].values():
        place = str(folder.parent / "pictures") if absolute else "./pictures"
        entry["images"] = [name.replace("./imagesTr", place) for name in entry["images"]]
    write_json(folder / "dataset.json", listed)
    raw = open_raw_dataset("801")
    inject(raw, *stage_cases(raw))
    assert audit(raw.name).problems == ()
    swap(*(Path(raw.cases[case].images[0]) for case in (HELD_OUT, HOST)))
    assert only(audit(raw.name), f"{HELD_OUT} holds {HOST}").leak


# ---- the same image twice, and the test set ----


def test_the_same_image_in_training_and_validation_is_a_leak_without_synthetic_cases_too(folders):
    folder = make_dataset(folders[0], patients=4, slices=2, size=16, folds=4)
    raw = open_raw_dataset("801")
    assert audit(raw.name).problems == ()
    shutil.copy(image(raw, HOST), image(raw, HELD_OUT))
    result = audit(folder.name)
    assert [(problem.fold, problem.leak) for problem in result.problems] == [(0, True), (1, True)]
    assert f"trains on {HOST} and validates on {HELD_OUT}" in result.problems[0].text


def test_equal_labels_and_equal_empty_channels_are_no_leak(folders, no_fsync):
    make_dataset(folders[0], patients=4, slices=2, size=16, folds=4, channels=2)
    raw = open_raw_dataset("801")
    empty = sitk.ReadImage(str(image(raw, HOST, 1))) * 0
    for case in raw.cases:
        sitk.WriteImage(empty, str(image(raw, case, 1)), True)
        label(raw, case).write_bytes(label(raw, HOST).read_bytes())
    assert audit(raw.name).problems == ()


def test_slices_of_air_and_padding_are_not_the_same_patient(folders, no_fsync):
    make_dataset(folders[0], patients=4, slices=2, size=16, folds=4)
    raw = open_raw_dataset("801")
    y, x = np.ogrid[:16, :16]
    padded = np.where((y - 8) ** 2 + (x - 8) ** 2 < 60, -1000, -2048)[None].astype(np.int16)
    for case in (HOST, HELD_OUT):
        write_array(image(raw, case), padded)
    (raw.folder / "imagesTs").mkdir()
    shutil.copy(image(raw, HOST), raw.folder / "imagesTs" / "external_007_0000.nii.gz")
    assert audit(raw.name).problems == ()
    contents_module.check_same_content(replace(raw, contents=contents_module.contents_of(raw)), range(4))


@pytest.mark.parametrize("path", [image, label])
def test_a_training_case_in_the_test_set_is_a_leak_under_any_name(raw, path):
    part = path(raw, HOST).parent.name.replace("Tr", "Ts")
    (raw.folder / part).mkdir()
    other = raw.folder / part / "external_007.nii.gz"
    shutil.copy(path(raw, HELD_OUT), other)
    rewrite(other)
    assert audit(raw.name).problems == ()
    shutil.copy(path(raw, HOST), other)
    problem = only(audit(raw.name), "holds files of training cases")
    assert problem.leak
    assert f"external_007.nii.gz is {path(raw, HOST).relative_to(raw.folder)}" in problem.text


def recompress(source: Path, target: Path) -> None:
    """Writes the same data in other bytes."""
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(gzip.compress(gzip.decompress(source.read_bytes()), 1, mtime=7))
    assert sha256(source) != sha256(target)


def test_a_recompressed_copy_is_the_same_image(raw):
    recompress(image(raw, HELD_OUT), image(raw, HOST))
    twins = only(audit(raw.name), f"fold 0 trains on {HOST} and validates on {HELD_OUT}, which hold the same image")
    assert twins.leak


@pytest.mark.parametrize("part", ["imagesTs", "labelsTs"])
def test_a_recompressed_training_case_in_the_test_set_is_a_leak(raw, part):
    recompress(image(raw, HOST) if part == "imagesTs" else label(raw, HOST), raw.folder / part / "test_0000.nii.gz")
    assert only(audit(raw.name), "holds files of training cases").leak


def test_recompressed_empty_channels_are_no_leak(folders, no_fsync):
    folder = make_dataset(folders[0], patients=4, slices=2, size=16, folds=4, channels=2)
    for path in folder.glob("imagesTr/*_0001.nii.gz"):
        values = sitk.GetImageFromArray(np.zeros((1, 16, 16), np.int16))
        sitk.WriteImage(values, str(path), True, int(path.name[6:8]) % 9 + 1)
    assert audit(folder.name).problems == ()


def test_a_fold_that_only_nnunet_has_is_checked_too(raw):
    shutil.copy(image(raw, HELD_OUT), image(raw, HOST))
    splits = read_json(raw.preprocessed / "splits_final.json")
    write_json(raw.preprocessed / "splits_final.json", [*splits, {"train": [HOST], "val": [HELD_OUT]}])
    assert only(audit(raw.name), f"fold {len(splits)} trains on {HOST}").leak


def test_an_empty_label_in_the_test_set_says_nothing(folders, no_fsync):
    folder = make_dataset(folders[0], patients=4, slices=2, size=16, folds=4)
    empty = sitk.ReadImage(str(folder / "labelsTr" / f"{HOST}.nii.gz")) * 0
    (folder / "labelsTs").mkdir()
    for name in (f"labelsTr/{HOST}", "labelsTs/test_1"):
        sitk.WriteImage(empty, str(folder / f"{name}.nii.gz"), True)
    assert audit(folder.name).problems == ()


# ---- records ----


def test_donors_and_hosts_that_are_not_among_the_sources_are_a_leak(raw):
    def forget(manifest: dict) -> None:
        manifest["cases"][FIRST]["sources"] = [HOST]

    edit(raw, MANIFEST, forget)
    assert only(audit(raw.name), f"the manifest names {DONOR} as host or donor of {FIRST}").leak


def test_a_donor_in_validation_is_a_leak_even_if_it_is_not_among_the_sources(raw):
    edit(raw, MANIFEST, lambda manifest: manifest["cases"][FIRST]["operations"][0].update(donor=HELD_OUT))
    assert only(audit(raw.name), f"{FIRST} was made from {HELD_OUT}").leak


def test_records_that_were_rewritten_to_agree_with_each_other_are_a_leak(raw):
    """A host moves to validation, and manifest and card name another training case in its place."""

    def rewritten(name: str) -> str:
        return "lung_004_s00" if name == HOST else name

    def in_manifest(manifest: dict) -> None:
        for case in manifest["cases"].values():
            case.update(host=rewritten(case["host"]), sources=sorted({rewritten(name) for name in case["sources"]}))
        generator = manifest["runs"][0]["generator"]
        generator["training_cases"] = [name for name in generator["training_cases"] if name != HOST]

    def in_splits(splits: list) -> None:
        splits[0]["train"].remove(HOST)
        splits[0]["train"].remove("lung_002_s01")
        splits[0]["val"] += [HOST, "lung_002_s01"]

    edit(raw, MANIFEST, in_manifest)
    edit(raw, MANIFEST, lambda manifest: manifest["runs"][0]["generator"]["training_cases"].remove("lung_002_s01"))
    edit(raw, "splits_final.json", in_splits)
    card = read_json(card_of(raw))
    training = read_json(raw.folder / MANIFEST)["runs"][0]["generator"]["training_cases"]
    write_json(card_of(raw), {**card, "training_cases": training})
    result = audit(raw.name)
    assert only(result, f"the sources that the manifest names for {FIRST} do not hold what it was made from").leak
    assert only(result, "the training cases that the manifest names for the generator of cbmat, fold 0").leak
    assert only(result, "the generator was trained on other files").leak


def test_patients_that_were_changed_in_the_manifest_are_a_leak(raw):
    edit(raw, MANIFEST, lambda manifest: manifest["patients"].update({HELD_OUT: "somebody else"}))
    assert only(audit(raw.name), "names other patients than when the synthetic cases were made").leak


def test_contents_that_were_edited_are_seen_at_the_files(raw):
    def edited(manifest: dict) -> None:
        contents = manifest["contents"]
        contents[HOST], contents[HELD_OUT] = (
            dict(zip(contents[a], contents[b].values(), strict=True)) for a, b in ((HOST, HELD_OUT), (HELD_OUT, HOST))
        )

    edit(raw, MANIFEST, edited)
    assert only(audit(raw.name), f"{HELD_OUT} holds {HOST}").leak


@pytest.mark.parametrize(
    "change",
    [
        lambda contents: contents.pop(HOST),
        lambda contents: contents.update(other={"imagesTr/x": "0" * 64}),
        lambda contents: contents.update({HOST: {}}),
        lambda contents: contents[HOST].update(x="0"),
    ],
    ids=["case gone", "case too many", "no files", "no hash"],
)
def test_contents_that_are_no_contents_are_damage(raw, change):
    edit(raw, MANIFEST, lambda manifest: change(manifest["contents"]))
    assert "is damaged: 'contents'" in audit(raw.name).problems[0].text


def test_patients_whose_hash_was_deleted_are_no_earlier_version(raw):
    edit(raw, MANIFEST, lambda manifest: manifest.pop("patients_hash"))
    assert only(audit(raw.name), "names other patients").leak


def test_contents_that_were_deleted_are_no_earlier_version(raw):
    edit(raw, MANIFEST, lambda manifest: manifest.pop("contents"))
    assert only(audit(raw.name), "has lost its record of what the real cases held").leak


def test_what_a_record_has_lost_is_no_excuse(raw):
    def forget(manifest: dict) -> None:
        del manifest["cases"][FIRST]["contents"], manifest["runs"][0]["generator"]["contents"]

    edit(raw, MANIFEST, forget)
    assert audit(raw.name).leaks == 2


# ---- rules of the generator that no other rule covers ----


def _manifest_of(training: list[str], patients: dict[str, str]) -> dict:
    run = {"method": "cbmat", "fold": 0, "generator": {"hash": "a" * 64, "training_cases": training}}
    return {"dataset": "Dataset801_Tiny", "patients": patients, "runs": [run], "cases": {}, "files": {}}


@pytest.mark.parametrize("seen", ["p1_a", "p1_b"], ids=["the case", "another case of its patient"])
def test_a_card_that_names_a_validation_patient_is_a_leak_whatever_the_manifest_says(folders, seen):
    folder = folders[2] / "Dataset801_Tiny" / "DiffLung__cbmat" / "fold_0"
    patients = {"p1_a": "p1", "p1_b": "p1", "p2_a": "p2"}
    splits = [{"train": ["p2_a"], "val": ["p1_a"]}]
    for training, expected in ((["p2_a"], 0), (["p2_a", seen], 1)):
        write_json(folder / "generator.json", {"training_cases": training})
        manifest = _manifest_of(training, patients)
        problems = leaks_module.generator_problems("Dataset801_Tiny", manifest, splits)
        assert [(p.fold, p.leak) for p in problems] == [(0, True)] * expected
        assert all(f"trained on {seen}, whose patients are in validation" in problem.text for problem in problems)


@pytest.mark.parametrize("seen", ["p1_a", "p1_b"], ids=["the case", "another case of its patient"])
def test_a_run_whose_generator_saw_a_validation_patient_is_a_leak(seen):
    patients = {"p1_a": "p1", "p1_b": "p1", "p2_a": "p2"}
    splits = [{"train": ["p2_a"], "val": ["p1_a"]}]
    assert leaks_module.split_problems(_manifest_of(["p2_a"], patients), splits, "x") == []
    (problem,) = leaks_module.split_problems(_manifest_of(["p2_a", seen], patients), splits, "x")
    assert problem.leak
    assert f"the generator of cbmat was trained on {seen}" in problem.text


@pytest.mark.parametrize("weights", [None, "b" * 64], ids=["no card", "card of other weights"])
def test_generators_that_are_not_here_are_named_in_a_note(raw, weights):
    assert audit(raw.name).notes == ()
    if weights is None:
        card_of(raw).unlink()
    else:
        write_json(card_of(raw), {**read_json(card_of(raw)), "weights_sha256": weights})
    result = audit(raw.name)
    assert result.problems == ()
    assert result.notes == (
        "the generators that made the cases of cbmat fold 0 are not in $nnUNet_results, so only the manifest says what "
        "they were trained on",
    )


# ---- the fingerprint ----


def test_a_fingerprint_that_counts_synthetic_cases_is_a_leak(raw):
    write_json(raw.preprocessed / "dataset_fingerprint.json", {"spacings": [[1, 1, 1]] * (len(raw.cases) + 2)})
    problem = only(audit(raw.name), "counts 10 cases, and the dataset has 8 real cases")
    assert problem.leak
    assert "nnUNetv2_extract_fingerprint -d 801 --clean" in problem.text


def test_a_fingerprint_that_was_extracted_again_is_a_leak_and_the_remedy_works(raw):
    path = raw.preprocessed / "dataset_fingerprint.json"
    write_json(path, {"spacings": [[2, 2, 2]] * len(raw.cases)})
    assert only(audit(raw.name), "was extracted again").leak
    remove(raw.name)
    write_json(path, {"spacings": [[1, 1, 1]] * len(raw.cases)})  # what nnU-Net extracts now
    again = open_raw_dataset("801")
    inject(again, *stage_cases(again))
    assert audit(raw.name).problems == ()
    assert path.is_file()


def test_the_fingerprint_of_an_earlier_version_is_judged_by_the_cases_that_it_counts(raw):
    edit(raw, MANIFEST, lambda manifest: manifest.pop("fingerprint"))
    assert audit(raw.name).problems == ()
    write_json(raw.preprocessed / "dataset_fingerprint.json", {"spacings": [[1, 1, 1]] * (len(raw.cases) + 2)})
    assert only(audit(raw.name), "counts 10 cases").leak


# ---- two manifests ----


def plans_of(raw: RawDataset, mean: float, shape: int = 16) -> None:
    """A fingerprint of mean -700, and plans made from one of another mean."""

    def intensities(value: float) -> dict:
        return {"foreground_intensity_properties_per_channel": {"0": {"mean": value, "std": 100.0}}}

    sizes = {"spacings": [[5.0, 0.8, 0.8]] * 2, "shapes_after_crop": [[1, 16, 16]] * 2}
    fingerprint = raw.preprocessed / "dataset_fingerprint.json"
    write_json(fingerprint, {**sizes, **intensities(-700)})
    edit(raw, MANIFEST, lambda manifest: manifest.update(fingerprint=sha256(fingerprint)))
    shapes = {
        "original_median_spacing_after_transp": [0.8, 5.0, 0.8],
        "original_median_shape_after_transp": [shape, 1, 16],
        "transpose_forward": [1, 0, 2],
    }
    plans = {"plans_name": "nnUNetPlans", "configurations": {}, **shapes, **intensities(mean)}
    write_json(raw.preprocessed / "nnUNetPlans.json", plans)


def test_plans_of_a_fingerprint_that_was_put_right_afterwards_are_a_leak(planned):
    plans_of(planned, mean=-680)
    problem = only(audit(planned.name), "nnUNetPlans.json was not made from dataset_fingerprint.json")
    assert problem.leak
    assert "run nnUNetv2_plan_and_preprocess -d 801 with" in problem.text


def test_plans_of_the_fingerprint_are_accepted(planned):
    plans_of(planned, mean=-700)
    assert audit(planned.name).problems == audit(planned.name).notes == ()


@pytest.mark.parametrize("origin", ["other intensities", "other shape", "a dataset that is here", "older plans"])
def test_plans_that_were_moved_or_made_before_are_a_note(planned, origin):
    plans_of(planned, -100 if origin == "other intensities" else -680, 99 if origin == "other shape" else 16)
    plans = planned.preprocessed / "nnUNetPlans.json"
    if origin == "a dataset that is here":
        key = "foreground_intensity_properties_per_channel"
        source = planned.preprocessed.with_name("Dataset900_Source") / "dataset_fingerprint.json"
        source.parent.mkdir()
        write_json(source, {key: read_json(plans)[key]})
    if origin == "older plans":
        os.utime(plans, (1_000_000_000, 1_000_000_000))
    result = audit(planned.name)
    assert result.problems == ()
    assert "older than the synthetic cases, or of another dataset" in result.notes[0]


def test_the_audit_says_which_manifest_is_right_and_the_advice_works(raw):
    for right, wrong in ((raw.folder, raw.preprocessed), (raw.preprocessed, raw.folder)):
        intact = (right / MANIFEST).read_bytes()
        manifest = read_json(wrong / MANIFEST)
        case = manifest["cases"].pop(FIRST)
        for name in case["files"]:
            del manifest["files"][name]
        write_json(wrong / MANIFEST, manifest)
        problem = only(audit(raw.name), f"copy {right / MANIFEST} to {wrong / MANIFEST}")
        assert ("nnUNetv2_plan_and_preprocess -d 801" in problem.text) == (wrong == raw.preprocessed)
        (wrong / MANIFEST).write_bytes(intact)
        assert audit(raw.name).problems == ()


def test_manifests_of_which_the_files_tell_nothing_are_not_copied(raw):
    manifest = read_json(raw.preprocessed / MANIFEST)
    manifest["cases"][FIRST]["seed"] = 1
    write_json(raw.preprocessed / MANIFEST, manifest)
    assert "do not tell which is right; run difflung_remove -d Dataset801_Tiny" in audit(raw.name).problems[0].text


def test_a_manifest_of_an_older_augmentation_beside_its_preprocessed_files_is_not_copied_over_the_new_one(raw):
    """The synthetic files say it, even where all names are the same."""
    old = (raw.folder / MANIFEST).read_bytes()
    remove(raw.name)
    again = open_raw_dataset("801")
    inject(again, *stage_cases(again, bump=5.0))
    (raw.preprocessed / MANIFEST).write_bytes(old)
    assert f"copy {raw.folder / MANIFEST} to {raw.preprocessed / MANIFEST}" in audit(raw.name).problems[0].text


# ---- what is remembered, and what is not known ----


def test_hashes_are_remembered_and_never_trusted_if_the_stat_differs(raw, monkeypatch):
    monkeypatch.setattr(contents_module, "_SETTLED", -1)
    monkeypatch.setattr(contents_module, "_WORTH_FILES", 0)
    assert audit(raw.name).problems == ()
    memo = cache_folder(raw.name) / contents_module.MEMO
    assert len(read_json(memo)["files"]) >= 16
    read: list[str] = []
    monkeypatch.setattr(contents_module, "sha256", lambda path: read.append(str(path)) or sha256(path))
    assert audit(raw.name).problems == ()
    assert read == [], "nothing has changed"
    status = image(raw, HOST).stat()
    content = bytearray(image(raw, HOST).read_bytes())
    content[-1] ^= 1
    image(raw, HOST).write_bytes(content)
    os.utime(image(raw, HOST), ns=(status.st_atime_ns, status.st_mtime_ns))
    assert HOST in only(audit(raw.name), "files of real cases were changed").text
    assert read == [str(image(raw, HOST))]
    read.clear()
    assert audit(raw.name, anew=True).problems != ()
    assert len(read) >= 16
    memo.write_text("{")
    assert HOST in only(audit(raw.name), "files of real cases were changed").text


def test_a_manifest_of_an_earlier_version_is_read_and_the_audit_says_what_it_cannot_check(raw):
    def older(manifest: dict) -> None:
        del manifest["contents"], manifest["runs"][0]["generator"]["contents"]
        for case in manifest["cases"].values():
            del case["contents"]

    edit(raw, MANIFEST, older)
    result = audit(raw.name)
    assert result.problems == ()
    assert result.notes[0].startswith(
        "made by an earlier version: cbmat fold 0; the contents of the real cases were not"
    )
    again = open_raw_dataset("801")
    inject(again, *stage_cases(again, fold=1))
    result = audit(raw.name)
    assert result.problems == ()
    assert result.notes[0].startswith("made by an earlier version: cbmat fold 0;")
    rewrite(image(raw, HOST))
    assert only(audit(raw.name), "files of real cases were changed").text


def test_a_machine_without_the_raw_dataset_is_told_what_was_not_compared(raw, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    result = audit(raw.name)
    assert result.problems == ()
    assert result.notes == (
        "the raw dataset is not here, so the contents of its cases were not compared with the manifest",
    )


def test_that_a_removal_keeps_changes_is_announced(raw):
    edit(raw, "splits_final.json", lambda splits: splits[0]["val"].append("unknown"))
    assert any("splits_final.json" in note and "keeps your changes" in note for note in audit(raw.name).notes)


def test_cases_are_not_injected_into_a_dataset_whose_files_have_changed(raw):
    rewrite(label(raw, DONOR))
    again = open_raw_dataset("801")
    with pytest.raises(ValueError, match=f"files of {DONOR} were changed after synthetic cases were injected"):
        inject(again, *stage_cases(again, fold=1))
    assert np.array_equal(sorted(read_json(raw.folder / MANIFEST)["cases"]), [FIRST, "difflung_cbmat_f0_0001"])
