"""What would be refused after hours of training is refused before it, and by the dry run with the same words."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
import SimpleITK as sitk

from nnunet_difflung.commands.augment import entry
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.commit import Step, journal
from nnunet_difflung.injection.dataset_lock import lock_file
from nnunet_difflung.injection.inject import inject
from nnunet_difflung.injection.manifest import MANIFEST
from nnunet_difflung.injection.removal import remove
from nnunet_difflung.paths import cache_folder
from nnunet_difflung.pipeline import augment as augment_module
from nnunet_difflung.pipeline.preflight import check_configuration
from nnunet_difflung.runtime.files import read_json, write_json
from tests.support.staging import plan_like_nnunet, stage_cases
from tests.support.tiny import make_dataset, tree_hashes

pytestmark = pytest.mark.usefixtures("no_fsync", "nothing_is_trained")
RUN = [
    "-d",
    "801",
    "--method",
    "cbmat",
    "-f",
    "0",
    "--preset",
    "fast",
    "-device",
    "cpu",
    "-np",
    "1",
    "--target-share",
    "ILD=0.4",
    "--max-synthetic",
    "4",
]


@pytest.fixture
def nothing_is_trained(monkeypatch) -> None:
    monkeypatch.setattr(augment_module, "train_fold", lambda *_: pytest.fail("a training was started"))


@dataclass(frozen=True)
class Place:
    """The dataset's folders: raw, preprocessed, results."""

    raw: Path
    preprocessed: Path
    results: Path

    def edit(self, name: str, change: Callable[[object], object]) -> None:
        """Changes the content of a JSON file in the raw folder."""
        content = read_json(self.raw / name)
        change(content)
        write_json(self.raw / name, content)


def _place(folders, planned: bool, augmented: bool) -> Place:
    raw = make_dataset(folders[0], patients=4, slices=1, size=24, folds=2)
    place = Place(raw, folders[1] / raw.name, folders[2] / raw.name)
    if planned:
        plan_like_nnunet(open_raw_dataset("801"))
    if augmented:
        opened = open_raw_dataset("801")
        inject(opened, *stage_cases(opened, fold=1, count=1))
    return place


def _said(capsys, arguments: list[str]) -> tuple[int, str]:
    """Exit code, and the line that begins with ``Error``."""
    with pytest.raises(SystemExit) as stop:
        entry(arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("Error", "Failed"))]
    assert len(lines) <= 1
    return int(stop.value.code or 0), lines[0] if lines else ""


def _without_lock(folders) -> dict[str, str]:
    return {name: digest for name, digest in tree_hashes(*folders).items() if not name.endswith("/lock")}


def _refused_alike(capsys, folders, options: list[str], parts: list[str]) -> None:
    """Dry run and run refuse with the same line that holds the parts, and leave every file as it was."""
    before = _without_lock(folders)
    dry, run = _said(capsys, [*RUN, *options, "--dry-run"]), _said(capsys, [*RUN, *options])
    assert dry == run
    assert run[0] == 2, run
    missing = [part for part in parts if part not in run[1]]
    assert not missing, run[1]
    assert _without_lock(folders) == before


def _copy_case(raw: Path, new: str) -> None:
    """A case of another patient, which is in no split yet."""
    other = make_dataset(raw.parent.parent / "other", patients=1, slices=1, size=24, seed=7, splits=False)
    shutil.copy(other / "imagesTr" / "lung_001_s00_0000.nii.gz", raw / "imagesTr" / f"{new}_0000.nii.gz")
    shutil.copy(other / "labelsTr" / "lung_001_s00.nii.gz", raw / "labelsTr" / f"{new}.nii.gz")


def _add_case(place: Place) -> None:
    _copy_case(place.raw, "lung_005_s00")
    place.edit("dataset.json", lambda content: content.update(numTraining=content["numTraining"] + 1))
    place.edit("splits_final.json", lambda splits: [split["train"].append("lung_005_s00") for split in splits])


def _take_out(splits: list, name: str) -> None:
    for split in splits:
        for side in ("train", "val"):
            split[side] = [i for i in split[side] if i != name]


def _remove_case(place: Place) -> None:
    for path in place.raw.rglob("lung_002_s00*"):
        path.unlink()
    place.edit("dataset.json", lambda content: content.update(numTraining=content["numTraining"] - 1))
    place.edit("splits_final.json", lambda splits: _take_out(splits, "lung_002_s00"))


def _other_folds(place: Place) -> None:
    write_json(place.preprocessed / "splits_final.json", read_json(place.raw / "splits_final.json")[::-1])


def _manifest(change: Callable[[dict], object]) -> Callable[[Place], None]:
    return lambda place: place.edit(MANIFEST, change)


def _leak(manifest: dict) -> None:
    validation = {"lung_002_s00", "lung_004_s00"}  # of fold 1, for which the cases were made
    for case in manifest["cases"].values():
        case["sources"] = sorted({*case["sources"], *validation})


def _capitals(place: Place) -> None:
    for part in ("imagesTr", "labelsTr"):
        for path in (place.raw / part).iterdir():
            path.rename(path.with_name(path.name.replace(".nii.gz", ".NII.GZ")))


def _all_capitals(place: Place) -> None:
    _capitals(place)
    place.edit("dataset.json", lambda content: content.update(file_ending=".NII.GZ"))


def _damaged_journal(place: Place) -> None:
    journal(place.raw).parent.mkdir(parents=True)
    journal(place.raw).write_text("{")


def _as_file(name: str) -> Callable[[Place], None]:
    def put(place: Place) -> None:
        path = getattr(place, name)
        shutil.rmtree(path, ignore_errors=True)
        path.write_text("")

    return put


def _damaged_report(place: Place) -> None:
    path = place.results / "DiffLung__cbmat" / "augment_report.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")


FRESH = {  # mutation of a dataset without synthetic cases, parts of the message
    "splits that differ": (_other_folds, ["preprocessed", "splits_final.json has other folds than", "copy the file"]),
    "foreign files": (
        lambda place: _copy_case(place.raw, "difflung_old"),
        ["begin with 'difflung_'", "imagesTr/difflung_old_0000.nii.gz", "rename", "numTraining"],
    ),
    "foreign ids": (
        lambda place: place.edit("splits_final.json", lambda s: s[0]["train"].append("difflung_old")),
        ["splits_final.json fold 0 lists difflung_old", "take these ids out"],
    ),
    "validation on a synthetic case": (
        lambda place: place.edit("splits_final.json", lambda s: s[1]["val"].append("difflung_old")),
        ["splits_final.json fold 1 lists difflung_old"],
    ),
    "numTraining": (
        lambda place: place.edit("dataset.json", lambda content: content.update(numTraining=7)),
        ["numTraining 7", "4"],
    ),
    "capitals": (_capitals, [".NII.GZ", "nnU-Net looks for '.nii.gz'", "rename it"]),
    "capitals, as dataset.json says": (_all_capitals, ["file_ending '.NII.GZ'", "can write no such files", ".nii.gz"]),
    "fingerprint of other cases": (
        lambda place: write_json(place.preprocessed / "dataset_fingerprint.json", {"spacings": [[1, 1, 1]] * 3}),
        ["dataset_fingerprint.json was made from 3 cases", "4 real cases", "delete the file"],
    ),
    "damaged journal": (_damaged_journal, ["journal.json", "not a journal"]),
    "results are a file": (_as_file("results"), ["nnUNet_results/Dataset801_Tiny is a file"]),
    "preprocessed folder is a file": (_as_file("preprocessed"), ["nnUNet_preprocessed/Dataset801_Tiny is a file"]),
    "damaged report": (_damaged_report, ["augment_report.json is damaged", "delete it"]),
    "lost manifest": (
        lambda place: write_json(place.preprocessed / MANIFEST, {}),
        [f"nnUNet_raw/Dataset801_Tiny/{MANIFEST} is missing", "copy it", "difflung_remove -d 801"],
    ),
}


def _other_label(place: Place) -> None:
    """A training patient's label is corrected, as a newer lesion segmentation would."""
    shutil.copy(place.raw / "labelsTr" / "lung_002_s00.nii.gz", place.raw / "labelsTr" / "lung_001_s00.nii.gz")


AUGMENTED = {  # mutation of a dataset with synthetic cases of fold 1, parts of the message
    "cases added": (_add_case, ["lung_005_s00 was added", "difflung_remove -d 801", "keeps your changes"]),
    "files added": (lambda place: _copy_case(place.raw, "lung_005_s00"), ["lung_005_s00 was added"]),
    "cases removed": (_remove_case, ["lung_002_s00 was removed", "difflung_remove -d 801"]),
    "foreign files": (lambda place: _copy_case(place.raw, "difflung_old"), ["difflung_old_0000", "2 files", "rename"]),
    "foreign ids": (
        lambda place: place.edit("splits_final.json", lambda s: s[0]["train"].append("difflung_old")),
        ["splits_final.json fold 0 lists difflung_old"],
    ),
    "synthetic file lost": (
        lambda place: next((place.raw / "labelsTr").glob("difflung_*")).unlink(),
        ["labelsTr/difflung_cbmat_f1_0000.nii.gz is missing", "restore it", "difflung_remove -d 801"],
    ),
    "dataset.json changed": (
        lambda place: place.edit("dataset.json", lambda content: content.update(description="mine")),
        ["dataset.json was changed", "difflung_remove -d 801 (which keeps your change)"],
    ),
    "splits changed": (
        lambda place: place.edit("splits_final.json", lambda s: s.reverse()),
        ["splits_final.json was changed", "difflung_remove -d 801"],
    ),
    "splits deleted": (lambda place: (place.raw / "splits_final.json").unlink(), ["splits_final.json was deleted"]),
    "manifest damaged": (lambda place: (place.raw / MANIFEST).write_text("{"), [MANIFEST, "cannot be read as JSON"]),
    "leak in another fold": (_manifest(_leak), ["audit of Dataset801_Tiny fails already", "difflung_audit -d 801"]),
    "label of a real case changed": (_other_label, ["fails already", "lung_001_s00"]),
    "synthetic file changed": (
        lambda place: next((place.raw / "labelsTr").glob("difflung_*")).write_bytes(b"mine"),
        ["fails already", "was changed after it was injected"],
    ),
}


@pytest.mark.parametrize("planned", [True, False], ids=["planned", "not planned"])
@pytest.mark.parametrize("fault", FRESH)
def test_a_fault_of_a_dataset_without_synthetic_cases(folders, capsys, fault, planned):
    mutate, parts = FRESH[fault]
    place = _place(folders, planned, augmented=False)
    place.preprocessed.mkdir(exist_ok=True)
    mutate(place)
    _refused_alike(capsys, folders, [], parts)


@pytest.mark.parametrize("fault", AUGMENTED)
def test_a_fault_of_an_augmented_dataset(folders, capsys, fault):
    mutate, parts = AUGMENTED[fault]
    mutate(_place(folders, True, augmented=True))
    _refused_alike(capsys, folders, [], parts)


def test_a_3d_configuration_of_single_slices(folders, capsys):
    place = _place(folders, False, augmented=False)
    parts = ["-c 3d_fullres: Dataset801_Tiny holds single slices", "plans no 3d configuration; give -c 2d"]
    _refused_alike(capsys, folders, ["-c", "3d_fullres"], parts)
    place.preprocessed.mkdir(exist_ok=True)
    plans = {"plans_name": "nnUNetPlans", "configurations": {"2d": {}, "3d_fullres": {}}}
    write_json(place.preprocessed / "nnUNetPlans.json", plans)
    assert _said(capsys, [*RUN, "-c", "3d_fullres", "--dry-run"])[0] == 0, "somebody has planned it nevertheless"


def test_a_configuration_that_is_not_planned_is_noted_before_anything_is_computed(folders, capsys):
    make_dataset(folders[0], patients=4, volumes=True, size=24, folds=2)
    plans = folders[1] / "Dataset801_Tiny" / "nnUNetPlans.json"
    plans.parent.mkdir(exist_ok=True)
    write_json(plans, {"plans_name": "nnUNetPlans", "configurations": {"2d": {}, "3d_fullres": {}}})
    with pytest.raises(SystemExit) as stop:
        entry([*RUN, "-c", "3d_lowres", "--dry-run"])
    assert not stop.value.code
    assert f"Note: {plans} has no configuration 3d_lowres, only 2d, 3d_fullres; unless" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("depths", "refused"),
    [((5.0, 5.0), True), ((5.0, 7.0), True), ((1.0, 9.0), False), ((0.5, 0.5), False), (None, False)],
)
def test_nnunet_may_plan_3d_for_slices_that_it_would_resample_to_several(folders, depths, refused):
    folder = make_dataset(folders[0], patients=2, volumes=True, depth=1 if depths else 2, size=16, folds=2)
    for path, depth in zip(sorted(folder.glob("imagesTr/*")), depths or (), strict=False):
        image = sitk.ReadImage(str(path))
        image.SetSpacing((0.8, 0.8, depth))
        sitk.WriteImage(image, str(path))
    with pytest.raises(BadInput, match="single slices") if refused else nullcontext():
        check_configuration(open_raw_dataset("801"), "3d_lowres")
    check_configuration(open_raw_dataset("801"), "2d")


def test_patients_told_in_another_way(folders, capsys):
    _place(folders, False, augmented=True)
    parts = ["'(lung_00[24]?).*' gives other patients (3) than", MANIFEST, "leave the option out"]
    _refused_alike(capsys, folders, ["--patient-pattern", "(lung_00[24]?).*"], parts)


@pytest.mark.parametrize(
    "name",
    [
        "nnUNet_raw/Dataset801_Tiny",
        "nnUNet_raw/Dataset801_Tiny/imagesTr",
        "nnUNet_raw/Dataset801_Tiny/labelsTr",
        "nnUNet_raw/Dataset801_Tiny/.difflung",
        "nnUNet_preprocessed/Dataset801_Tiny",
        "nnUNet_results",
        "nnUNet_results/Dataset801_Tiny/DiffLung__cache",
        "nnUNet_results/Dataset801_Tiny/DiffLung__cbmat",
        "nnUNet_results/Dataset801_Tiny/DiffLung__cbmat/fold_0",
    ],
)
def test_a_folder_that_cannot_be_written(folders, tmp_path, capsys, monkeypatch, name):
    place, locked = _place(folders, True, augmented=True), tmp_path / name
    if "DiffLung" in name:
        locked.mkdir(parents=True)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != locked and real(path, mode))
    _refused_alike(capsys, folders, [], [f"Error: {locked} is not writable"])
    assert place.raw.is_dir()


def test_a_full_cache_that_can_only_be_read_is_used(folders, capsys, monkeypatch):

    place = _place(folders, True, augmented=False)
    cache = place.results / "DiffLung__cache"
    build_cache(open_raw_dataset("801"), cache, 1, progress=False)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != cache and real(path, mode))
    assert _said(capsys, [*RUN, "--dry-run"])[0] == 0


def test_a_disk_that_is_too_small(folders, capsys, monkeypatch):
    _place(folders, False, augmented=False)

    class Usage:
        free = 10

    monkeypatch.setattr("nnunet_difflung.pipeline.estimates.shutil.disk_usage", lambda _: Usage)
    _refused_alike(capsys, folders, [], ["10 B free", "the cache of Dataset801_Tiny may need", "free some space"])
    raw = open_raw_dataset("801")
    build_cache(raw, cache_folder(raw.name), 1, progress=False)
    (cache_folder(raw.name) / ".lock").touch()
    _refused_alike(capsys, folders, [], ["10 B free", "lower --max-synthetic"])


def test_a_generator_of_other_settings(folders, capsys):
    place = _place(folders, False, augmented=False)
    card = place.results / "DiffLung__cbmat" / "fold_0" / "generator.json"
    write_json(card, {"format": 1, "finished": False, "config": {"method": "cbmat"}, "training_cases": []})
    _refused_alike(capsys, folders, [], ["fold_0 holds a generator with other settings or other training data"])


def test_a_file_system_without_locks(folders, capsys, monkeypatch):
    _place(folders, False, augmented=False)

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("nnunet_difflung.runtime.locks.fcntl.flock", refuse)
    _refused_alike(capsys, folders, [], [".difflung/lock cannot be locked", "file locks"])


def test_a_dry_run_does_not_look_at_a_change_that_is_half_done(folders, capsys):
    place = _place(folders, False, augmented=True)
    steps = [Step("delete", MANIFEST)]
    journal(place.raw).parent.mkdir(parents=True, exist_ok=True)
    content = {"format": 1, "clear": True, "steps": [vars(step) for step in steps]}
    journal(place.raw).write_text(json.dumps(content))
    before = tree_hashes(*folders)
    code, said = _said(capsys, [*RUN, "--dry-run"])
    assert code == 2
    assert "difflung_audit -d Dataset801_Tiny" in said
    assert tree_hashes(*folders) == before


def test_a_dry_run_says_that_another_command_is_changing_the_dataset(folders, capsys):
    import fcntl

    place = _place(folders, False, augmented=True)
    with open(lock_file(place.raw), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit) as stop:
            entry([*RUN, "--dry-run"])
    assert stop.value.code == 0
    assert "another command is changing Dataset801_Tiny" in capsys.readouterr().err


def _move_foreign(place: Place) -> None:
    for path in [*place.raw.rglob("difflung_old*")]:
        shutil.move(path, place.raw.parent / path.name)


def _rename_back(place: Place) -> None:
    for path in [*place.raw.rglob("*.NII.GZ")]:
        path.rename(path.with_name(path.name.replace(".NII.GZ", ".nii.gz")))


def _copy_splits(place: Place) -> None:
    shutil.copy(place.raw / "splits_final.json", place.preprocessed / "splits_final.json")


def _as_dataset_json_said(place: Place) -> None:
    _rename_back(place)
    place.edit("dataset.json", lambda content: content.update(file_ending=".nii.gz"))


REMEDIES = {  # fault of a dataset without synthetic cases -> what its message says to do
    "splits that differ": _copy_splits,
    "foreign files": _move_foreign,
    "foreign ids": lambda place: place.edit("splits_final.json", lambda s: _take_out(s, "difflung_old")),
    "validation on a synthetic case": lambda place: place.edit(
        "splits_final.json", lambda s: _take_out(s, "difflung_old")
    ),
    "numTraining": lambda place: place.edit("dataset.json", lambda content: content.update(numTraining=4)),
    "capitals": _rename_back,
    "capitals, as dataset.json says": _as_dataset_json_said,
    "fingerprint of other cases": lambda place: (place.preprocessed / "dataset_fingerprint.json").unlink(),
    "results are a file": lambda place: place.results.rename(place.results.with_name("moved")),
    "preprocessed folder is a file": lambda place: place.preprocessed.rename(place.preprocessed.with_name("moved")),
    "damaged report": lambda place: (place.results / "DiffLung__cbmat" / "augment_report.json").unlink(),
}


@pytest.mark.parametrize("fault", REMEDIES)
def test_the_remedy_of_a_fault_works(folders, capsys, fault):
    place = _place(folders, planned=False, augmented=False)
    place.preprocessed.mkdir()
    FRESH[fault][0](place)
    assert _said(capsys, [*RUN, "--dry-run"])[0] == 2
    REMEDIES[fault](place)
    assert _said(capsys, [*RUN, "--dry-run"]) == (0, "")


@pytest.mark.parametrize("fault", [name for name in AUGMENTED if "foreign" not in name and "manifest" not in name])
def test_what_is_added_to_an_augmented_dataset_survives_its_removal(folders, capsys, fault):
    """``difflung_remove`` is the remedy for all of these; files of real cases are as somebody left them."""
    place = _place(folders, True, augmented=True)
    AUGMENTED[fault][0](place)
    real = {name: digest for name, digest in tree_hashes(place.raw).items() if "/lung_" in name}
    assert _said(capsys, [*RUN, "--dry-run"])[0] == 2
    remove("801", force=fault == "synthetic file changed")
    assert {name: digest for name, digest in tree_hashes(place.raw).items() if "/lung_" in name} == real
    if fault == "files added":  # without its entry in dataset.json, which the refusal says to check
        place.edit("dataset.json", lambda content: content.update(numTraining=5))
    if fault in ("cases added", "cases removed", "splits changed"):  # in one of the two split files alone
        assert "copy the file with the folds that you want" in _said(capsys, [*RUN, "--dry-run"])[1]
        _copy_splits(place)
    assert _said(capsys, [*RUN, "--dry-run"]) == (0, "")


@pytest.mark.parametrize("copied", [True, False], ids=["copied back", "removed"])
def test_a_lost_manifest(folders, capsys, copied):
    place = _place(folders, True, augmented=True)
    (place.raw / MANIFEST).unlink()
    _refused_alike(capsys, folders, [], [f"nnUNet_raw/Dataset801_Tiny/{MANIFEST} is missing", "difflung_remove -d 801"])
    if copied:
        shutil.copy(place.preprocessed / MANIFEST, place.raw / MANIFEST)
    else:
        remove("801")
    assert _said(capsys, [*RUN, "--dry-run"]) == (0, "")
