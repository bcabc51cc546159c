"""Injection and removal: every byte comes back, an interruption at any step is harmless, folds can run at once."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_difflung.audit.audit import audit_dataset
from nnunet_difflung.commands.augment import main as augment
from nnunet_difflung.commands.remove import entry
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.dataset.splits import is_synthetic
from nnunet_difflung.errors import BadInput, Failed
from nnunet_difflung.injection.commit import recover
from nnunet_difflung.injection.inject import ensure_real_fingerprint, inject
from nnunet_difflung.injection.manifest import MANIFEST, fault_in, find_manifest, new_manifest, resolve
from nnunet_difflung.injection.removal import remove
from nnunet_difflung.paths import table1_file, table2_file
from nnunet_difflung.runtime.files import read_json, sha256, write_json
from nnunet_difflung.runtime.locks import working_alone
from nnunet_difflung.runtime.share import Share
from tests.support.killing import in_child
from tests.support.staging import plan_like_nnunet, stage_cases
from tests.support.tiny import make_dataset, tree_hashes

pytestmark = pytest.mark.usefixtures("no_fsync")  # fsync still counts as a step


def _open(folders: tuple[Path, ...], **options) -> RawDataset:
    make_dataset(folders[0], **{"patients": 5, "slices": 1, "size": 24, **options})
    return open_raw_dataset("801")


def _inject(raw: RawDataset, **options) -> None:
    inject(raw, *stage_cases(raw, **options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"splits": False},
        {"dataset_key": True, "channels": 2},
        {"file_ending": ".tif", "volumes": True},
        {"file_ending": ".png"},
    ],
    ids=["slices", "no splits", "dataset key", "tiff volumes", "png"],
)
@pytest.mark.parametrize("planned", ["before", "after", "never"])
def test_inject_then_remove_restores_every_byte(folders, options, planned):
    raw = _open(folders, **options)
    if planned == "before":
        plan_like_nnunet(raw)
    before = tree_hashes(*folders)
    _inject(raw, fold=0)
    again = open_raw_dataset("801")
    _inject(again, fold=1, method="mat", count=1)
    if planned == "after":
        plan_like_nnunet(raw, fingerprint=False)
    _inject(open_raw_dataset("801"), fold="all", count=1)

    assert audit_dataset(raw.name, deep=True) == []
    content = read_json(raw.folder / "dataset.json")
    assert content["numTraining"] == 5 + 4
    assert open_raw_dataset("801").cases.keys() == raw.cases.keys()
    splits = read_json(raw.folder / "splits_final.json")
    assert [sum(map(is_synthetic, split["train"])) for split in splits] == [2, 1, 0, 0, 0]
    assert not any(is_synthetic(i) for split in splits for i in split["val"])
    if planned != "never":
        assert read_json(raw.preprocessed / "splits_final.json") == splits
        assert find_manifest(raw.name) == read_json(raw.preprocessed / MANIFEST)
    if options.get("dataset_key"):
        assert content["dataset"]["difflung_mat_f1_0000"]["label"] == "./labelsTr/difflung_mat_f1_0000.nii.gz"
        if planned != "never":  # nnU-Net preprocesses what its copy lists
            assert read_json(raw.preprocessed / "dataset.json") == content

    remove("801")
    after = tree_hashes(*folders)
    if planned == "after":  # what nnU-Net made of real cases stays; nothing synthetic does
        assert {k: v for k, v in after.items() if not k.startswith(str(raw.preprocessed))} == before
        assert not [name for name in after if "difflung" in name]
        assert sha256(raw.preprocessed / "dataset.json") == sha256(raw.folder / "dataset.json")
        assert (raw.preprocessed / "splits_final.json").is_file() != raw.splits_are_new
    else:
        assert after == before


def test_absolute_paths_in_dataset_json_stay_absolute_where_the_raw_folder_is_named_relatively(folders, monkeypatch):
    folder = _open(folders, dataset_key=True).folder
    content = read_json(folder / "dataset.json")
    for case in content["dataset"].values():
        case["images"] = [str(folder / file) for file in case["images"]]
        case["label"] = str(folder / case["label"])
    write_json(folder / "dataset.json", content)
    before = tree_hashes(*folders)
    monkeypatch.chdir(folders[0].parent)
    monkeypatch.setenv("nnUNet_raw", folders[0].name)
    _inject(raw := open_raw_dataset("801"))
    listed = read_json(folder / "dataset.json")["dataset"]
    files = [Path(file) for case in listed.values() for file in (*case["images"], case["label"])]
    assert len(listed) > len(raw.cases)
    assert all(path.is_absolute() and path.is_file() for path in files)
    open_raw_dataset("801")
    assert audit_dataset(raw.name, deep=True) == []
    remove("801")
    assert tree_hashes(*folders) == before


def test_doing_it_twice_changes_nothing_and_other_settings_are_refused(folders):
    raw = _open(folders)
    cases, run = stage_cases(raw)
    inject(raw, cases, run)
    before = tree_hashes(*folders)
    inject(raw, cases, run)
    inject(open_raw_dataset("801"), *stage_cases(open_raw_dataset("801")))
    assert {k: v for k, v in tree_hashes(*folders).items() if "/work" not in k} == {
        k: v for k, v in before.items() if "/work" not in k
    }
    cases, run = stage_cases(raw, count=3)
    with pytest.raises(BadInput, match="other settings.*difflung_remove"):
        inject(raw, cases, run)


def test_several_folds_and_methods_enter_together_or_not_at_all(folders):
    raw = _open(folders)
    before = _visible(folders)
    additions = [stage_cases(raw, fold=0), stage_cases(raw, fold=1), stage_cases(raw, fold=1, method="mat")]
    additions[2][0][0].record["sources"] = [raw.validation_cases(1)[0]]
    with pytest.raises(Failed):
        inject(raw, additions)
    assert _visible(folders) == before
    additions[2][0][0].record["sources"] = [raw.training_cases(1)[0]]
    inject(raw, additions)
    inject(raw, [*additions, stage_cases(raw, fold=2)])
    assert audit_dataset(raw.name, deep=True) == []
    assert len(find_manifest(raw.name)["runs"]) == 4
    assert read_json(raw.folder / "dataset.json")["numTraining"] == 5 + 8


def test_leaking_cases_are_refused_and_nothing_changes(folders):
    raw = _open(folders)
    before = tree_hashes(*folders)
    cases, run = stage_cases(raw)
    cases[0].record["sources"].append(raw.validation_cases(0)[0])
    with pytest.raises(Failed, match="made from"):
        inject(raw, cases, run)
    assert {k: v for k, v in tree_hashes(*folders).items() if ".difflung" not in k} == before
    remove("801")
    assert tree_hashes(*folders) == before


def test_folds_changed_while_painting_are_refused(folders):
    raw = _open(folders)
    cases, run = stage_cases(raw)
    splits = read_json(raw.folder / "splits_final.json")
    splits[0], splits[1] = splits[1], splits[0]
    write_json(raw.folder / "splits_final.json", splits)
    with pytest.raises(BadInput, match="splits_final.json has other folds"):
        inject(raw, cases, run)


def test_real_fingerprint_comes_and_goes_with_the_cases(folders, monkeypatch):
    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor

    class Fewer(fingerprint_extractor.DatasetFingerprintExtractor):
        """100 million voxels are drawn otherwise, however small the dataset is."""

        def __init__(self, *args):
            super().__init__(*args)
            self.num_foreground_voxels_for_intensitystats = 1e4

    monkeypatch.setattr(fingerprint_extractor, "DatasetFingerprintExtractor", Fewer)
    raw = _open(folders)
    before = tree_hashes(*folders)
    ensure_real_fingerprint(raw, 1)
    assert tree_hashes(folders[1]) == {}
    _inject(raw)
    fingerprint = raw.preprocessed / "dataset_fingerprint.json"
    assert len(read_json(fingerprint)["spacings"]) == len(raw.cases)
    ours = sha256(fingerprint)
    fingerprint.unlink()
    ensure_real_fingerprint(raw, 1)
    assert sha256(fingerprint) == ours
    assert audit_dataset(raw.name, deep=True) == []
    remove("801")
    assert tree_hashes(*folders) == before


def test_a_removal_while_another_fold_is_painted_takes_no_fingerprint_away(folders, monkeypatch):
    from nnunet_difflung.injection import inject as module

    extracted = []

    def extract(raw: RawDataset, target: Path, _: int) -> None:
        extracted.append(target)
        write_json(target, {"spacings": [[5.0, 0.8, 0.8]] * len(raw.cases)})

    monkeypatch.setattr(module, "extract", extract)
    raw = _open(folders)
    before = tree_hashes(*folders)
    ensure_real_fingerprint(raw, 1)
    remove("801")
    assert tree_hashes(*folders) == before
    inject(raw, [stage_cases(raw)], None, 1)
    assert len(read_json(raw.preprocessed / "dataset_fingerprint.json")["spacings"]) == len(raw.cases)
    inject(raw, [stage_cases(raw, fold=1)], None, 1)
    assert len(extracted) == 2
    assert audit_dataset(raw.name, deep=True) == []
    remove("801")
    assert tree_hashes(*folders) == before


def test_a_removal_while_another_fold_is_painted_takes_no_folds_away(folders, tmp_path):
    """The folds were made by the injection of the first fold, and its removal deletes their file."""
    raw = _open(folders, splits=False)
    before = tree_hashes(*folders)
    _inject(raw)
    later = open_raw_dataset("801")
    staged = stage_cases(later, fold=1, staged_in=tmp_path / "painted")
    remove("801")
    assert tree_hashes(*folders) == before
    inject(later, *staged)
    assert read_json(raw.folder / "splits_final.json")[0] == raw.splits[0]
    assert audit_dataset(raw.name, deep=True) == []
    remove("801")
    assert tree_hashes(*folders) == before


def test_cases_are_already_there_whatever_cases_of_other_folds_are_excluded(folders):
    raw = _open(folders)
    cases, run = stage_cases(raw)

    def inject_without(*excluded: str) -> None:
        inject(raw, cases, run | {"settings": run["settings"] | {"sampling": {"exclude": list(excluded)}}})

    inject_without("difflung_cbmat_f1_0000")
    before = tree_hashes(*folders)
    inject_without("difflung_cbmat_f1_0000", "difflung_cbmat_f1_0001")
    assert tree_hashes(*folders) == before
    with pytest.raises(BadInput, match="other settings"):
        inject_without("difflung_cbmat_f0_0007")


def test_a_run_puts_back_what_a_removal_took_away_before_it_added_cases(folders, monkeypatch):
    """The whole command: it has staged the fingerprint, and read the folds, before it adds its cases."""
    from nnunet_difflung.injection import inject as module
    from nnunet_difflung.pipeline import augment as stages

    def extract(raw: RawDataset, target: Path, _: int) -> None:
        write_json(target, {"spacings": [[5.0, 0.8, 0.8]] * len(raw.cases)})

    monkeypatch.setattr(module, "extract", extract)
    raw = _open(folders, splits=False)
    before = tree_hashes(*folders[:2])
    copy = ["-d", "801", "--method", "copy_paste", "--max-synthetic", "1", "--gate", "report", "--memorised", "off"]
    augment([*copy, "-f", "0", "-device", "cpu", "-np", "1"])
    record = stages.record_painted

    def recorded_while_all_is_removed(*arguments):
        remove("801")
        assert tree_hashes(*folders[:2]) == before
        record(*arguments)

    monkeypatch.setattr(stages, "record_painted", recorded_while_all_is_removed)
    augment([*copy, "-f", "1", "-device", "cpu", "-np", "1"])
    assert len(read_json(raw.preprocessed / "dataset_fingerprint.json")["spacings"]) == len(raw.cases)
    assert read_json(raw.folder / "splits_final.json")[0] == raw.splits[0]
    assert audit_dataset(raw.name, deep=True) == []
    remove("801")
    assert tree_hashes(*folders[:2]) == before


def _visible(folders: tuple[Path, ...]) -> dict[str, str]:
    """The tree without the staging folder, and without what differs between two equal injections: their time."""
    found = {k: v for k, v in tree_hashes(*folders).items() if "/.difflung" not in k and MANIFEST not in k}
    manifests = {str(p): {**read_json(p), "created": ""} for folder in folders for p in folder.rglob(MANIFEST)}
    return {**found, **{name: json.dumps(content) for name, content in manifests.items()}}


def _across_file_systems(replace: Callable) -> Callable:
    """``os.replace`` as if nnUNet_preprocessed were on another disk."""

    def across(source, target):
        if "nnUNet_preprocessed" in str(target) and "nnUNet_preprocessed" not in str(source):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace(source, target)

    return across


@pytest.mark.parametrize("splits", [True, False], ids=["planned, two file systems", "no splits, staged elsewhere"])
def test_killed_at_any_step_of_commit_and_removal(folders, splits, monkeypatch, tmp_path):
    raw = _open(folders, splits=splits, patients=2, size=12)
    elsewhere = None if splits else tmp_path / "elsewhere"
    if splits:
        plan_like_nnunet(raw)
        monkeypatch.setattr(os, "replace", _across_file_systems(os.replace))
    clean = tree_hashes(*folders)
    cases, run = stage_cases(raw, count=1, staged_in=elsewhere)
    code, steps = in_child(lambda: inject(raw, cases, run))
    assert code == 0
    assert steps > 20
    complete = _visible(folders)
    outcomes = set()
    for step in range(steps):
        remove("801")
        assert tree_hashes(*folders) == clean
        cases, run = stage_cases(raw, count=1, staged_in=elsewhere)
        assert in_child(lambda c=cases, r=run: inject(raw, c, r), step)[0] == 9
        _never_validates_on_synthetic(raw)
        recover(raw.folder)
        found = _visible(folders)
        outcomes.add(found == complete)
        if found != complete:
            assert found == clean
            assert all(path.is_file() for case in cases for path in (*case.images, case.label))
            inject(raw, cases, run)
        assert _visible(folders) == complete
        assert audit_dataset(raw.name, deep=True) == []
    assert outcomes == {True, False}

    code, steps = in_child(lambda: remove("801"))
    assert code == 0
    assert steps > 20
    assert tree_hashes(*folders) == clean
    outcomes = set()
    for step in range(steps):
        inject(raw, *stage_cases(raw, count=1, staged_in=elsewhere))
        assert in_child(lambda: remove("801"), step)[0] == 9
        _never_validates_on_synthetic(raw)
        recover(raw.folder)
        found = _visible(folders)
        outcomes.add(found == clean)
        assert tree_hashes(*folders) == clean if found == clean else found == complete
        remove("801")
        assert tree_hashes(*folders) == clean
    assert outcomes == {True, False}


def _never_validates_on_synthetic(raw: RawDataset) -> None:
    """Whatever nnU-Net finds at this moment: no synthetic case to be drawn into a validation."""
    for folder in (raw.folder, raw.preprocessed):
        path = folder / "splits_final.json"
        if path.is_file():
            assert not any(is_synthetic(i) for split in read_json(path) for i in split["val"])
        else:
            assert folder != raw.folder or not list((raw.folder / "imagesTr").glob("difflung_*"))


@pytest.mark.parametrize(("moment", "decided"), [(0, False), (5, True), (9, True)])
def test_ctrl_c_leaves_the_dataset_as_it_was_or_complete(folders, monkeypatch, moment, decided):
    raw = _open(folders)
    cases, run = stage_cases(raw)
    before = _visible(folders)
    replace, count = os.replace, 0

    def interrupted(source, target):
        nonlocal count
        count += 1
        if count == moment + 1:
            signal.raise_signal(signal.SIGINT)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            inject(raw, cases, run)
    assert not (raw.folder / ".difflung" / "commit").exists()
    assert (_visible(folders) != before) == decided
    assert audit_dataset(raw.name, deep=True) == []
    inject(raw, cases, run)
    assert _visible(folders) != before
    assert audit_dataset(raw.name, deep=True) == []


def test_two_folds_at_the_same_time(folders):
    raw = _open(folders)
    before = tree_hashes(*folders)
    staged = [stage_cases(raw, fold=fold) for fold in (0, 1, 2)]
    children = []
    for cases, run in staged:
        child = os.fork()
        if child == 0:
            try:
                inject(raw, cases, run)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert audit_dataset(raw.name, deep=True) == []
    assert {c["fold"] for c in find_manifest(raw.name)["cases"].values()} == {0, 1, 2}
    assert read_json(raw.folder / "dataset.json")["numTraining"] == 5 + 6
    remove("801")
    assert tree_hashes(*folders) == before


def test_what_a_user_changed_is_named_and_not_overwritten_blindly(folders, capsys):
    raw = _open(folders)
    before = tree_hashes(*folders)
    _inject(raw)
    content = read_json(raw.folder / "dataset.json")
    write_json(raw.folder / "dataset.json", {**content, "description": "mine"})
    with pytest.raises(BadInput, match="dataset.json was changed"):
        _inject(raw, fold=1)
    (raw.folder / "labelsTr" / "difflung_cbmat_f0_0001.nii.gz").write_bytes(b"mine")
    with pytest.raises(SystemExit) as exit_code:
        entry(["-d", "801"])
    assert exit_code.value.code == 2
    assert "difflung_cbmat_f0_0001.nii.gz, a file of a synthetic case, was changed" in capsys.readouterr().err
    (raw.folder / "imagesTr" / "difflung_cbmat_f0_0000_0000.nii.gz").unlink()
    lines = remove("801", force=True)
    for expected in ("had already been deleted", "was changed after it"):
        assert any(expected in line for line in lines)
    assert tree_hashes(*folders) == before


def test_dry_run_touches_nothing_and_generators_go_when_asked(folders):
    raw = _open(folders)
    _inject(raw)
    generator = folders[2] / raw.name / "DiffLung__cbmat" / "fold_0"
    generator.mkdir(parents=True)
    tables = [table1_file(raw.name), table2_file(raw.name)]
    for table in tables:
        table.parent.mkdir()
        table.write_text("{}")
    before = tree_hashes(*folders)
    assert any("2 synthetic cases" in line for line in remove("801", dry_run=True))
    assert tree_hashes(*folders) == before
    (told,) = (line for line in remove("801") if "generators are kept" in line)
    assert "DiffLung__cbmat" in told
    assert "DiffLung__evaluate" not in told
    assert generator.is_dir()
    remove("801", generators=True)
    assert not generator.parent.exists()
    assert all(table.is_file() for table in tables), "results of comparisons are not generators"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "cannot be read as JSON"),
        (b"[]", "content is a list"),
        (b'{"format": 9}', "has format 9"),
        ({"files": {"../../x": {"before": None, "after": None}}}, "never writes"),
        ({"files": {"imagesTr/lung_001_s00_0000.nii.gz": {"before": None, "after": None}}}, "never writes"),
        ({"files": {"imagesTr/difflung_/../../x": {"before": None, "after": None}}}, "never writes"),
        ({"cases": {"difflung_a/b": {}}}, "not an id"),
        ({"cases": {"lung_001": {}}}, "not an id"),
        ({"made_folders": ["/"]}, "made_folders"),
        ({"made_folders": None}, "made_folders"),
        ({"made_folders": [[1]]}, "made_folders"),
        ({"patients": {"lung_001_s00": [1]}}, "patients"),
        ({"files": {"imagesTr/difflung_a_0000.nii.gz": {"before": None, "after": None}}}, "hashes"),
        ({"cases": {"difflung_a": {"method": [1], "fold": 0, "sources": [], "files": []}}}, "malformed"),
        (
            {"cases": {"difflung_a": {"method": "mat", "fold": 0, "sources": [], "files": [], "generator": 7}}},
            "malformed",
        ),
    ],
)
def test_a_manifest_edited_by_hand_is_refused(folders, content, message):
    raw = _open(folders)
    _inject(raw)
    path = raw.folder / MANIFEST
    path.write_bytes(content if isinstance(content, bytes) else json.dumps({**read_json(path), **content}).encode())
    before = tree_hashes(*folders)
    with pytest.raises(BadInput, match=message):
        remove("801")
    assert tree_hashes(*folders) == before
    assert any(message in line for line in audit_dataset(raw.name))


@pytest.mark.parametrize(
    "name",
    [
        "imagesTr/../../x",
        "../x",
        "/x",
        "preprocessed:../x",
        "preprocessed:/x",
        "a\\b",
        "imagesTr/difflung_a/../../../x",
    ],
)
def test_a_name_that_leads_out_of_the_dataset_is_no_file_of_it(folders, name):
    raw = _open(folders)
    with pytest.raises(BadInput, match="outside the dataset"):
        resolve(raw.folder, name)
    assert fault_in({**new_manifest(raw.name, {}), "files": {name: {"before": None, "after": "0" * 64}}})


@pytest.mark.parametrize(
    "step",
    [
        {"do": "put", "target": "imagesTr/difflung_a_0000.nii.gz", "source": "../../secret.txt"},
        {"do": "put", "target": "imagesTr/difflung_a_0000.nii.gz", "source": ".difflung/../../../secret.txt"},
        {"do": "put", "target": "labelsTr/difflung_a.nii.gz", "source": "labelsTr/lung_001_s00.nii.gz"},
        {"do": "put", "target": "labelsTr/difflung_a.nii.gz", "source": ".difflung//labelsTr/a.nii.gz"},
        {"do": "delete", "target": "labelsTr/difflung_a.nii.gz", "source": ".difflung/a.nii.gz"},
        {"do": "put", "target": "imagesTr/secret_0000.nii.gz", "source": ".difflung/commit/1.json"},
        {"do": "delete", "target": "labelsTr/lung_001_s00.nii.gz"},
        {"do": "delete", "target": "../secret.txt"},
        {"do": "run", "target": "dataset.json"},
        {"do": "delete"},
        b"{",
        b"[]",
    ],
    ids=str,
)
def test_a_journal_that_is_not_ours_moves_and_deletes_nothing(folders, step):
    raw = _open(folders)
    (folders[0].parent / "secret.txt").write_text("secret")
    journal = raw.folder / ".difflung" / "commit" / "journal.json"
    journal.parent.mkdir(parents=True)
    journal.write_bytes(
        step if isinstance(step, bytes) else json.dumps({"format": 1, "clear": False, "steps": [step]}).encode()
    )
    before = {k: v for k, v in tree_hashes(folders[0].parent).items() if not k.endswith("lock")}
    with pytest.raises(BadInput, match=r"journal\.json"):
        recover(raw.folder)
    assert {k: v for k, v in tree_hashes(folders[0].parent).items() if not k.endswith("lock")} == before


def test_a_file_system_without_locks_is_told(folders, monkeypatch):
    raw = _open(folders)
    before = tree_hashes(folders[0])

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("nnunet_difflung.runtime.locks.fcntl.flock", refuse)
    with pytest.raises(BadInput, match="file locks"):
        _inject(raw)
    assert {k: v for k, v in tree_hashes(folders[0]).items() if ".difflung" not in k} == before


def test_what_a_killed_command_was_writing_goes_with_the_next(tmp_path):
    folder = tmp_path / "fold_0"
    (folder / "unet").mkdir(parents=True)
    for path in (folder, folder / "unet"):
        for name in (".writing_x_checkpoint.safetensors", ".tmpLgZbhJ"):
            (path / name).touch()
    for name in ("checkpoint.safetensors", ".tmp", ".tmp_of_mine"):
        (folder / name).touch()
    with working_alone([folder], Share()):
        left = sorted(p.name for p in folder.rglob("*"))
    assert left == [".lock", ".tmp", ".tmp_of_mine", "checkpoint.safetensors", "unet"]


def test_what_safetensors_was_writing_when_it_was_killed_goes_with_the_generator(folders):
    make_dataset(folders[0], patients=2, slices=1, size=16, folds=2)
    results = folders[2] / "Dataset801_Tiny"
    for name in ("generator.json", ".tmpLgZbhJ", "unet/.tmpA1b2C3"):
        (results / "DiffLung__difflung" / "fold_0" / name).parent.mkdir(parents=True, exist_ok=True)
        (results / "DiffLung__difflung" / "fold_0" / name).touch()
    remove("801", generators=True)
    assert list(results.iterdir()) == []


def test_painted_results_survive_recovery(folders):
    raw = _open(folders)
    cases, _ = stage_cases(raw)
    before = tree_hashes(*folders)
    (raw.folder / ".difflung" / "commit").mkdir()
    (raw.folder / ".difflung" / "commit" / "1.json").write_text("half")
    recover(raw.folder)
    assert {k: v for k, v in tree_hashes(*folders).items() if not k.endswith("lock")} == before


def test_a_change_is_decided_once_its_files_and_their_names_are_on_the_disk(folders, monkeypatch):
    from nnunet_difflung.injection import commit

    raw, flushed, real, decided = _open(folders), set(), commit.write_json, []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.add(os.fstat(handle).st_ino))

    def write(path: Path, content: dict) -> None:
        sources = [raw.folder / step["source"] for step in content["steps"] if step["source"]]
        assert {place.stat().st_ino for source in sources for place in (source, source.parent)} <= flushed
        decided.append(len(sources))
        real(path, content)

    monkeypatch.setattr(commit, "write_json", write)
    _inject(raw, staged_in=folders[2])
    assert len(decided) == 1
    assert decided[0] > 4


def test_the_hidden_folder_goes_where_an_open_file_stays_in_its_folder_as_on_nfs(folders, monkeypatch):
    raw = _open(folders)
    before = tree_hashes(*folders)
    _inject(raw)
    unlink, close, waiting = os.unlink, os.close, []

    def unlink_on_nfs(path, *rest, **options):
        if not str(path).endswith(".difflung/lock"):
            return unlink(path, *rest, **options)
        waiting.append(Path(path).with_name(".nfs0001"))
        return os.rename(path, waiting[-1])

    def close_on_nfs(handle: int) -> None:
        close(handle)
        while waiting:
            unlink(waiting.pop())

    monkeypatch.setattr(os, "unlink", unlink_on_nfs)
    monkeypatch.setattr(os, "close", close_on_nfs)
    remove("801")
    assert tree_hashes(*folders) == before


@pytest.mark.parametrize("left", ["", "lock", "commit/1.json"])
def test_what_is_only_to_be_deleted_does_not_stop_a_user_who_can_only_read(folders, monkeypatch, left):
    raw = _open(folders)
    (raw.folder / ".difflung" / left).parent.mkdir(parents=True, exist_ok=True)
    (raw.folder / ".difflung" / left).touch() if left else (raw.folder / ".difflung").mkdir()
    before = tree_hashes(*folders)

    def refused(path, *_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "rmdir", refused)
    monkeypatch.setattr("nnunet_difflung.injection.dataset_lock.open_lock", refused)
    monkeypatch.setattr("nnunet_difflung.injection.commit.is_writable", lambda _: False, raising=False)
    recover(raw.folder)
    assert tree_hashes(*folders) == before
    (raw.folder / ".difflung" / "commit").mkdir(exist_ok=True)
    write_json(raw.folder / ".difflung" / "commit" / "journal.json", {"format": 1, "clear": False, "steps": []})
    with pytest.raises(BadInput, match="make the dataset's folder writable"):
        recover(raw.folder)
