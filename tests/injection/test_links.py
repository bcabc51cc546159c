"""Links in and around a dataset: nothing is written or deleted where they lead, unless that is the dataset itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from nnunet_difflung.commands import audit as audit_command
from nnunet_difflung.commands import augment as augment_command
from nnunet_difflung.commands import remove as remove_command
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.inject import inject
from nnunet_difflung.injection.preconditions import check_places
from nnunet_difflung.injection.removal import remove
from nnunet_difflung.pipeline.preflight import check_before_training, warn_of_linked_datasets
from nnunet_difflung.runtime.files import read_json, write_json
from tests.support.snapshot import changed, snapshot
from tests.support.staging import plan_like_nnunet, stage_cases
from tests.support.tiny import make_dataset

pytestmark = pytest.mark.usefixtures("no_fsync")
SMALL = {"patients": 4, "slices": 1, "size": 16, "folds": 2}


def _two(folders) -> tuple[Path, Path]:
    """Dataset 801, and a dataset 802 with the same files."""
    mine = make_dataset(folders[0], **SMALL)
    other = make_dataset(folders[0], dataset_id=802, name="Other", **SMALL)
    return mine, other


def _link(link: Path, target: Path) -> None:
    shutil.rmtree(link) if link.is_dir() else link.unlink(missing_ok=True)
    link.symlink_to(target)


def _typed(error: str) -> None:
    """Does what a refusal says is to be done: its command from "rm" to "(cp -rs"."""
    start = error.index("rm ")
    end = error.find(" (cp -rs")
    subprocess.run(error[start : None if end < 0 else end], shell=True, check=True)


@pytest.mark.parametrize("part", ["imagesTr", "labelsTr"])
def test_a_folder_of_cases_that_is_another_datasets_is_refused_and_the_remedy_works(folders, part):
    mine, other = _two(folders)
    _link(mine / part, other / part)
    before = snapshot(*folders, folder_times=True)
    raw = open_raw_dataset("801")
    with pytest.raises(BadInput, match=rf"{mine / part} is a link to .*{part} of Dataset802_Other") as refused:
        check_before_training(raw, None, [0], "cbmat")
    assert snapshot(*folders, folder_times=True) == before
    _typed(str(refused.value))
    before_other = snapshot(other, folder_times=True)
    raw = open_raw_dataset("801")
    check_places(raw)
    inject(raw, *stage_cases(raw))
    assert snapshot(other, folder_times=True) == before_other


def test_the_same_is_refused_when_the_cases_are_added(folders):
    mine, other = _two(folders)
    raw = open_raw_dataset("801")
    cases, run = stage_cases(raw)
    _link(mine / "imagesTr", other / "imagesTr")
    before = snapshot(other, folder_times=True)
    with pytest.raises(BadInput, match="of Dataset802_Other"):
        inject(raw, cases, run)
    assert snapshot(other, folder_times=True) == before


def test_a_folder_of_cases_elsewhere_is_refused_but_one_inside_the_dataset_is_not(folders, tmp_path):
    mine = make_dataset(folders[0], **SMALL)
    shutil.move(mine / "imagesTr", mine / "ct")
    (mine / "imagesTr").symlink_to("ct")
    check_places(open_raw_dataset("801"))
    shutil.move(mine / "ct", tmp_path / "ct")
    _link(mine / "imagesTr", tmp_path / "ct")
    with pytest.raises(BadInput, match=rf"imagesTr is a link to {tmp_path / 'ct'}, and files would be written there"):
        check_places(open_raw_dataset("801"))


@pytest.mark.parametrize("command", ["augment", "dry run", "remove", "remove, dry run"])
def test_a_dataset_that_is_a_link_to_another_dataset_is_refused(folders, command, capsys):
    mine = make_dataset(folders[0], **SMALL)
    inject(raw := open_raw_dataset("801"), *stage_cases(raw))
    (folders[0] / "Dataset802_Alias").symlink_to(mine)
    before = snapshot(*folders, folder_times=True)
    removes = command.startswith("remove")
    entry = remove_command.entry if removes else augment_command.entry
    options = [] if removes else ["-f", "1", "--method", "copy_paste", "--preset", "fast"]
    with pytest.raises(SystemExit) as ended:
        entry(["-d", "802", *options, *(["--dry-run"] if "dry" in command else [])])
    error = capsys.readouterr().err
    assert ended.value.code == 2
    assert "Dataset802_Alias is a link to" in error
    assert "Dataset801_Tiny" in error
    assert snapshot(*folders, folder_times=True) == before


def test_a_dataset_and_roots_that_are_links_work_as_folders_do(folders, tmp_path, monkeypatch):
    elsewhere = tmp_path / "große Platte"
    shutil.move(make_dataset(folders[0], **SMALL), elsewhere / "Lunge 1")
    (folders[0] / "Dataset801_Tiny").symlink_to(elsewhere / "Lunge 1")
    (tmp_path / "raw link").symlink_to(folders[0])
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw link"))
    raw = open_raw_dataset("801")
    plan_like_nnunet(raw)
    before = snapshot(*folders, elsewhere)
    check_before_training(raw, None, [0], "cbmat")
    inject(raw, *stage_cases(raw))
    assert len(list((elsewhere / "Lunge 1" / "imagesTr").glob("difflung_*"))) == 2
    remove("801")
    assert changed(before, snapshot(*folders, elsewhere)) == []


def test_cases_that_are_links_are_read_and_never_written_through(folders, tmp_path):
    mine = make_dataset(folders[0], **SMALL)
    store = tmp_path / "store"
    store.mkdir()
    for path in [*mine.glob("imagesTr/*"), *mine.glob("labelsTr/*")]:
        shutil.move(path, store / path.name)
        path.symlink_to(store / path.name)
    before = snapshot(*folders, store, folder_times=False)
    stored = snapshot(store, folder_times=True)
    raw = open_raw_dataset("801")
    inject(raw, *stage_cases(raw))
    written = list((mine / "imagesTr").glob("difflung_*"))
    assert len(written) == 2
    assert not any(path.is_symlink() for path in written)
    assert snapshot(store, folder_times=True) == stored
    remove("801")
    assert changed(before, snapshot(*folders, store)) == []


def test_a_synthetic_file_replaced_by_a_link_is_deleted_as_a_link(folders, tmp_path):
    mine = make_dataset(folders[0], **SMALL)
    before = snapshot(*folders)
    inject(raw := open_raw_dataset("801"), *stage_cases(raw))
    synthetic = next((mine / "imagesTr").glob("difflung_*"))
    shutil.move(synthetic, tmp_path / "kept")
    synthetic.symlink_to(tmp_path / "kept")
    remove("801")
    assert (tmp_path / "kept").is_file()
    assert changed(before, snapshot(*folders)) == []


def test_json_files_shared_by_a_link_or_a_hard_link_are_replaced_where_they_stand(folders):
    mine, other = _two(folders)
    (mine / "dataset.json").unlink()
    os.link(other / "dataset.json", mine / "dataset.json")
    _link(mine / "splits_final.json", Path("..") / other.name / "splits_final.json")
    before, others = snapshot(mine, folders[1]), snapshot(other, folder_times=True)
    inject(raw := open_raw_dataset("801"), *stage_cases(raw))
    assert read_json(mine / "dataset.json")["numTraining"] == 6
    assert any("difflung" in name for name in read_json(mine / "splits_final.json")[0]["train"])
    assert snapshot(other, folder_times=True) == others
    remove("801")
    assert changed(before, snapshot(mine, folders[1])) == []
    assert snapshot(other, folder_times=True) == others


@pytest.mark.parametrize("inside", ["", "commit", "originals", "lock"])
def test_a_hidden_folder_that_is_a_link_is_refused_and_its_target_stays(folders, tmp_path, inside, capsys):
    mine = make_dataset(folders[0], **SMALL)
    raw = open_raw_dataset("801")
    theirs = tmp_path / "theirs"
    (theirs / "commit").mkdir(parents=True)
    for name in ("commit/a", "thesis.docx"):
        (theirs / name).write_text("precious")
    hidden = mine / ".difflung"
    if inside:
        hidden.mkdir()
    (hidden / inside).symlink_to(theirs / "thesis.docx" if inside == "lock" else theirs)
    before = snapshot(*folders, theirs, folder_times=True)
    for call in (
        lambda: remove("801"),
        lambda: remove("801", dry_run=True),
        lambda: inject(raw, [], {"method": "cbmat", "fold": 0}),
        lambda: check_before_training(raw, None, [0], "cbmat"),
    ):
        with pytest.raises(BadInput, match=r"\.difflung.* is a link to .*theirs"):
            call()
        assert snapshot(*folders, theirs, folder_times=True) == before
    with pytest.raises(SystemExit):
        audit_command.entry(["-d", "801"])
    assert "Traceback" not in capsys.readouterr().err
    assert changed(before, snapshot(*folders, theirs, folder_times=True)) in ([], [str(folders[2])])


def test_the_remedy_for_a_linked_hidden_folder_works(folders, tmp_path):
    mine = make_dataset(folders[0], **SMALL)
    before = snapshot(mine)
    inject(raw := open_raw_dataset("801"), *stage_cases(raw))
    shutil.move(mine / ".difflung", tmp_path / "moved")
    (mine / ".difflung").symlink_to(tmp_path / "moved")
    with pytest.raises(BadInput, match="is a link to") as refused:
        remove("801")
    _typed(str(refused.value))
    remove("801")
    assert changed(before, snapshot(mine)) == []
    assert (tmp_path / "moved" / "originals" / "dataset.json").is_file()


@pytest.mark.parametrize(
    "place", ["DiffLung__cbmat", "DiffLung__cbmat/fold_0", "DiffLung__cbmat/fold_0/samples", "DiffLung__cache"]
)
def test_results_that_are_links_are_refused_and_removed_as_links_or_not_at_all(folders, tmp_path, place):
    make_dataset(folders[0], **SMALL)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name in ("step_0000001.png", "generator.json", "lung_001_s00.image.npy", "augment_report.json"):
        (theirs / name).write_text("{}")
    link = folders[2] / "Dataset801_Tiny" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(theirs)
    before = snapshot(*folders, theirs, folder_times=True)
    kept = snapshot(theirs, folder_times=True)
    with pytest.raises(BadInput, match=rf"{link} is a link to {theirs}"):
        check_before_training(open_raw_dataset("801"), None, [0], "cbmat")
    assert snapshot(*folders, theirs, folder_times=True) == before
    remove("801", generators=True)
    assert snapshot(theirs, folder_times=True) == kept


def test_only_the_generators_and_caches_of_this_package_are_deleted(folders):
    make_dataset(folders[0], **SMALL)
    results = folders[2] / "Dataset801_Tiny"
    ours = [
        "DiffLung__cbmat/augment_report.json",
        "DiffLung__cbmat/preview.png",
        "DiffLung__cbmat/fold_0/generator.json",
        "DiffLung__cbmat/fold_0/.lock",
        "DiffLung__cbmat/fold_0/checkpoint.safetensors",
        "DiffLung__cbmat/fold_0/checkpoint_previous.safetensors",
        "DiffLung__cbmat/fold_0/training_log.jsonl",
        "DiffLung__cbmat/fold_0/progress.png",
        "DiffLung__cbmat/fold_0/samples/step_0000001.png",
        "DiffLung__cbmat/fold_0/unet/config.json",
        "DiffLung__cbmat/fold_0/unet/diffusion_pytorch_model.safetensors",
        "DiffLung__cbmat/fold_0/scheduler/scheduler_config.json",
        "DiffLung__cbmat/fold_0/segmenter/segmenter.json",
        "DiffLung__cbmat/fold_0/segmenter/part_0.safetensors",
        "DiffLung__cbmat/fold_all/synthesis_6677dc3f2829_c036ce5eeb44/painted/try0/00000_z0000.npy",
        "DiffLung__cbmat/fold_all/synthesis_6677dc3f2829_c036ce5e_discarded/imagesTr/difflung_x_0000.nii.gz",
        "DiffLung__cbmat/fold_all/synthesis_6677dc3f2829/imagesTr/difflung_x_0000.nii.gz",
        "DiffLung__pix2pix/fold_0/gan/generator.safetensors",
        "DiffLung__cache/.lock",
        "DiffLung__cache/.contents.json",
        "DiffLung__cache/.images.json",
        "DiffLung__cache/lung_001_s00.image.npy",
        "DiffLung__cache/lung_001_s00.condition.npy",
        "DiffLung__cache/lung_001_s00.json",
    ]
    foreign = [
        "DiffLung__mine/thesis.docx",
        "DiffLung__mine/fold_0/generator.json",
        "DiffLung__compare/table2.json",
        "DiffLung__evaluate/table1.json",
        "DiffLung__audit/images.png",
        "DiffLung__cbmat/notes.txt",
        "DiffLung__cbmat/fold_0_old/generator.json",
        "DiffLung__cbmat/fold_backup/generator.json",
        "DiffLung__cbmat/fold_0/samples/best.png",
        "DiffLung__cbmat/fold_0/notes/thesis.docx",
        "DiffLung__cbmat/fold_0/segmenter/mine.safetensors",
        "DiffLung__cache/notes.json",
        "DiffLung__file",
        "nnUNetTrainer__nnUNetPlans__2d/plans.json",
    ]
    for name in (*ours, *foreign):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text("{}")
    before = snapshot(*folders)
    said = "\n".join(remove("801", dry_run=True, generators=True))
    assert snapshot(*folders) == before
    assert "DiffLung__mine" not in said
    lines = remove("801", generators=True)
    left = {path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()}
    assert left == set(foreign)
    for name in ("notes.txt", "fold_0/notes/thesis.docx"):
        assert any("DiffLung__cbmat: " in line and "are kept" in line for line in lines), name
    assert not (results / "DiffLung__pix2pix").exists()


def test_arrays_of_another_dataset_behind_a_link_are_kept(folders):
    mine, _ = _two(folders)
    raw: RawDataset = open_raw_dataset("801")
    inject(raw, *stage_cases(raw))
    plan_like_nnunet(raw)
    theirs = folders[1] / "Dataset802_Other" / "nnUNetPlans_2d"
    theirs.parent.mkdir(parents=True)
    shutil.move(raw.preprocessed / "nnUNetPlans_2d", theirs)
    (raw.preprocessed / "nnUNetPlans_2d").symlink_to(theirs)
    mine_too = raw.preprocessed / "gt_segmentations" / "difflung_thesis.nii.gz"
    mine_too.write_text("precious")
    before = snapshot(theirs, folder_times=True)
    lines = remove("801")
    assert snapshot(theirs, folder_times=True) == before
    assert any("folder of Dataset802_Other, whose files are kept" in line for line in lines)
    assert mine_too.is_file()
    assert [path.name for path in (raw.preprocessed / "gt_segmentations").glob("difflung*")] == [mine_too.name]


def test_one_folder_for_raw_and_preprocessed_is_refused(folders, monkeypatch):
    make_dataset(folders[0], **SMALL)
    monkeypatch.setenv("nnUNet_preprocessed", str(folders[0]))
    with pytest.raises(BadInput, match="are the same folder, which nnU-Net cannot plan either"):
        check_places(open_raw_dataset("801"))


def test_a_remembered_hash_is_not_written_where_a_linked_cache_leads(folders, tmp_path):
    from nnunet_difflung.dataset import contents

    (tmp_path / "elsewhere").mkdir()
    cache = tmp_path / "cache"
    cache.symlink_to(tmp_path / "elsewhere")
    write_json(tmp_path / "a.json", {})
    os.utime(tmp_path / "a.json", (1, 1))
    hashes = contents.FileHashes(cache / contents.MEMO)
    hashes._hashed = {str(i): [2**25, 0, 0, 0, "x"] for i in range(2)}
    hashes.save()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_another_dataset_that_shows_this_ones_cases_is_named(folders, capsys):
    mine, other = _two(folders)
    _link(other / "labelsTr", mine / "labelsTr")
    warn_of_linked_datasets(open_raw_dataset("801"))
    assert f"Warning: {other / 'labelsTr'} is a link to cases of Dataset801_Tiny" in capsys.readouterr().err
    warn_of_linked_datasets(open_raw_dataset("802"))
    assert capsys.readouterr().err == ""


def test_results_that_are_another_datasets_lose_no_generator(folders):
    _two(folders)
    theirs = folders[2] / "Dataset802_Other"
    (theirs / "DiffLung__cbmat" / "fold_0").mkdir(parents=True)
    (theirs / "DiffLung__cbmat" / "fold_0" / "generator.json").write_text("{}")
    (folders[2] / "Dataset801_Tiny").symlink_to(theirs)
    before = snapshot(*folders, folder_times=True)
    for dry_run in (True, False):
        with pytest.raises(BadInput, match="the folder of Dataset802_Other in nnUNet_results"):
            remove("801", dry_run=dry_run, generators=True)
    with pytest.raises(BadInput, match="the folder of Dataset802_Other in nnUNet_results"):
        check_places(open_raw_dataset("801"))
    assert snapshot(*folders, folder_times=True) == before


def test_files_that_a_user_keeps_in_the_hidden_folder_stay(folders, tmp_path):
    mine = make_dataset(folders[0], **SMALL)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "thesis.docx").write_text("precious")
    (mine / ".difflung" / "notes" / "empty").mkdir(parents=True)
    (mine / ".difflung" / "notes" / "a.txt").write_text("precious")
    (mine / ".difflung" / "theirs").symlink_to(theirs)
    (mine / ".difflung" / "dangling").symlink_to("nowhere")
    before = snapshot(mine, theirs)
    assert remove("801")[0] == "Dataset801_Tiny has no synthetic cases; nothing to do"
    inject(raw := open_raw_dataset("801"), *stage_cases(raw))
    said = remove("801")
    assert changed(before, snapshot(mine, theirs)) == [str(mine / ".difflung" / "notes" / "empty")]
    assert any(f"{mine / '.difflung'} is kept" in line and "notes/a.txt" in line for line in said)


def test_a_link_of_a_user_beside_the_generators_is_not_refused(folders, tmp_path):
    make_dataset(folders[0], **SMALL)
    folder = folders[2] / "Dataset801_Tiny" / "DiffLung__cbmat"
    (folder / "fold_0").mkdir(parents=True)
    for place in (folder, folder / "fold_0"):
        (place / "paper").symlink_to(tmp_path)
    check_before_training(open_raw_dataset("801"), None, [0], "cbmat")
