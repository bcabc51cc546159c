"""``difflung_augment`` as people run it: the real command on a tiny dataset, its files, resume and undo."""

from __future__ import annotations

import json
import re
import shlex
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from nnunet_difflung.audit.audit import audit_dataset
from nnunet_difflung.commands.augment import main
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.config import preset, recorded
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.paths import fold_folder
from nnunet_difflung.pipeline.preflight import folds_to_do
from nnunet_difflung.pipeline.roles import with_present_roles
from nnunet_difflung.runtime.files import write_json
from nnunet_difflung.runtime.wording import duration
from tests.support.commands import OPTIONS, prepared, results_of, run_command, synthetic_arrays
from tests.support.tiny import IGNORE, LABELS, make_dataset, tree_hashes

pytestmark = pytest.mark.usefixtures("fingerprint")


@pytest.mark.parametrize(
    "dataset",
    [
        {},
        {"file_ending": ".png", "channel_names": {"0": "stored"}},
        {"volumes": True, "depth": 5, "file_ending": ".nrrd", "channels": 2},
        {"ignore": True, "file_ending": ".mha", "splits": False, "emphysema_every": 2},
    ],
    ids=str,
)
def test_composite_changes_only_what_it_says(folders, dataset, capsys):
    folder = make_dataset(folders[0], **dataset)
    before = tree_hashes(folder)
    main([*OPTIONS, "-f", "0"])
    raw, manifest = open_raw_dataset("801"), read_manifest(folder)
    assert manifest["cases"]
    assert "nnUNetv2_train 801" in capsys.readouterr().out
    for identifier, record in manifest["cases"].items():
        image, label = synthetic_arrays(raw, identifier, folder)
        real, real_label = raw.read_image(record["host"])[0], raw.read_label(record["host"])[0]
        changed = label != real_label
        assert changed.any()
        assert (real_label[changed] == 1).all()
        assert np.isin(label[changed], (2, 3)).all()
        assert sum(op["voxels"] for op in record["operations"]) >= changed.sum()
        outside = (image == real).all(0)
        assert outside[real_label != 1].all(), "only normal lung is ever painted over"
        assert not outside.all()
        assert set(np.flatnonzero((~outside).any((1, 2)))) <= set(record["slices"])
        training = set(raw.training_cases(0))
        assert set(record["sources"]) <= training
        assert record["host"] in training
    assert audit_dataset(raw.name, deep=True) == []
    main([*OPTIONS, "-f", "0"])
    assert "nothing to do" in capsys.readouterr().out
    remove(["-d", "801"])
    assert tree_hashes(folder) == before


def test_full_paints_the_whole_isolated_slice_but_what_is_to_be_ignored(folders):
    folder = make_dataset(folders[0], ignore=True)
    main([*OPTIONS, "-f", "1", "--method", "cbmat", "--paint", "full"])
    raw, manifest = open_raw_dataset("801"), read_manifest(folder)
    for identifier, record in manifest["cases"].items():
        image, _ = synthetic_arrays(raw, identifier, folder)
        real, label = raw.read_image(record["host"])[0], raw.read_label(record["host"])[0]
        ignored, air = label == IGNORE, real[0] < -990
        assert ignored.sum() > 10
        assert (image[0][ignored] == real[0][ignored]).all()
        assert (image[0][air & (label == 0)] == -1000).mean() > 0.95
        inside = (real[0] > -400) & ~ignored
        assert (image[0][inside] != real[0][inside]).mean() > 0.9


def test_every_fold_has_its_own_generator_and_its_own_cases(folders):
    folder = make_dataset(folders[0], patients=4, folds=2)
    main(OPTIONS)
    raw, manifest = open_raw_dataset("801"), read_manifest(folder)
    splits = json.loads((folder / "splits_final.json").read_text())
    assert len({run["generator"]["hash"] for run in manifest["runs"]}) == 2
    for run in manifest["runs"]:
        fold, card = run["fold"], folders[2] / run["generator"]["folder"] / "generator.json"
        validation = {raw.patients[i] for i in raw.validation_cases(fold)}
        assert json.loads(card.read_text())["training_cases"] == raw.training_cases(fold)
        assert not validation & {raw.patients[i] for i in run["generator"]["training_cases"]}
        ours = {i for i, record in manifest["cases"].items() if record["fold"] == fold}
        assert ours
        assert ours <= set(splits[fold]["train"])
        assert not ours & set(splits[1 - fold]["train"])
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == 8 + len(manifest["cases"])


def test_fold_all_enters_no_fold(folders):
    folder = make_dataset(folders[0])
    main([*OPTIONS, "-f", "all"])
    manifest = read_manifest(folder)
    splits = (folder / "splits_final.json").read_text()
    assert manifest["cases"]
    assert not any(i in splits for i in manifest["cases"])


COPY_PASTE = ["-d", "801", "--method", "copy_paste", "--gate", "report", "-device", "cpu", "--max-synthetic", "2"]


@pytest.fixture
def labels_are_read_once(monkeypatch):
    """No label is read for making folds: the cases have been checked and their classes counted."""
    monkeypatch.setattr(RawDataset, "_count_voxels", lambda _: pytest.fail("the labels are read a second time"))


@pytest.mark.usefixtures("labels_are_read_once")
def test_new_folds_keep_a_rare_class_in_every_training_part(folders):
    folder = make_dataset(folders[0], patients=10, slices=1, splits=False, emphysema_every=6)
    main([*COPY_PASTE, "--target-share", "emphysema=0.2"])
    raw, manifest = open_raw_dataset("801"), read_manifest(folder)
    holding = [i for i in raw.cases if (raw.read_label(i)[0] == LABELS["emphysema"]).any()]
    assert len(holding) == 2
    splits = json.loads((folder / "splits_final.json").read_text())
    assert len(splits) == 5
    assert all(set(holding) & set(split["train"]) for split in splits)
    assert {record["fold"] for record in manifest["cases"].values()} == set(range(5)), "each can paint emphysema"


def test_a_generator_of_other_settings_is_refused_before_another_fold_is_trained(folders):
    make_dataset(folders[0], patients=4, folds=2)
    main([*OPTIONS, "-f", "1"])
    remove(["-d", "801"])
    with pytest.raises(BadInput, match=r"fold_1 holds a generator with other settings.*epochs was 1, is now 2"):
        main([*OPTIONS, "--epochs", "2"])
    assert not (folders[2] / "Dataset801_Tiny" / "DiffLung__difflung" / "fold_0").exists()


def _advised(said: str) -> list[str]:
    """Arguments of the difflung_remove that a message tells to run."""
    return shlex.split(re.search(r"run difflung_remove (.*?) (?:first|and delete)", said)[1])


def test_what_is_advised_for_other_settings_of_the_generators_suffices(folders):
    """The cases would be gone, and the same command refused again for the generator that is left."""
    make_dataset(folders[0], patients=4, folds=2)
    main([*OPTIONS, "-f", "0"])
    with pytest.raises(BadInput, match="max_synthetic was") as refused:
        main([*OPTIONS, "-f", "0", "--max-synthetic", "1"])
    assert "--generators" not in str(refused.value), "theirs are the same"
    more = ["-f", "0", "--epochs", "2"]
    with pytest.raises(BadInput, match="epochs was 1, is now 2") as refused:
        main([*OPTIONS, *more])
    assert "generators of 1 fold have other settings too" in str(refused.value)
    remove(_advised(str(refused.value)))
    main([*OPTIONS, *more, "--dry-run"])


@pytest.mark.parametrize("method", ["difflung", "harmonise", "copy_paste"])
def test_generators_of_other_roles_of_the_labels_go_too(folders, method):
    raw = open_raw_dataset(make_dataset(folders[0]).name)
    summary = {"voxels_before": {"lung": 1}, "targets": {}}
    run = {"method": method, "fold": 0, "summary": summary}
    manifest = {"runs": [run], "cases": {"difflung_0": {"method": method, "fold": 0}}}
    for name in ("difflung", "cbmat", "copy_paste"):
        write_json(fold_folder(raw.name, name, 0) / "generator.json", {"format": 1})
    more = "" if method == "copy_paste" else " --generators"
    with pytest.raises(BadInput, match=f"other roles .*; run difflung_remove -d Dataset801_Tiny{more} first"):
        with_present_roles(raw, manifest)


def test_a_generator_that_another_method_trained_is_named(folders):
    """difflung_remove --method harmonise would leave it."""
    raw = SimpleNamespace(name="Dataset801_Tiny", folder=folders[0] / "Dataset801_Tiny", folds=lambda _: [0, 1])
    settings = replace(preset("fast"), method="harmonise")
    other = replace(settings, generator=replace(settings.generator, epochs=7))
    runs = [{"method": "harmonise", "fold": fold, "settings": other.as_dict()} for fold in (0, 1)]
    cases = {f"difflung_{fold}": {"method": "harmonise", "fold": fold} for fold in (0, 1)}
    card = fold_folder(raw.name, "cbmat", 1) / "generator.json"
    write_json(card, {"format": 1, "finished": True, "config": recorded("cbmat", other.generator)})
    manifest = {"runs": runs, "cases": cases}
    with pytest.raises(
        BadInput, match=f"-f 0 1 --method harmonise and delete {card.parent} first .generators of 1 fold"
    ):
        folds_to_do(raw, manifest, [], settings)
    write_json(card, {"format": 1, "finished": True, "config": recorded("cbmat", settings.generator)})
    with pytest.raises(BadInput, match="-f 0 1 --method harmonise first, or"):  # it has been trained again already
        folds_to_do(raw, manifest, [], settings)


def test_the_report_keeps_the_folds_of_earlier_commands(folders):
    make_dataset(folders[0], patients=4, folds=2)
    report = folders[2] / "Dataset801_Tiny" / "DiffLung__copy_paste" / "augment_report.json"
    main([*COPY_PASTE, "-f", "1"])
    earlier = json.loads(report.read_text())["folds"]
    main([*COPY_PASTE, "-f", "0"])
    folds = json.loads(report.read_text())["folds"]
    assert [row["fold"] for row in folds] == [1, 0]
    assert folds[:1] == earlier


def test_the_fingerprint_is_that_of_the_real_cases(tmp_path, monkeypatch):
    folders = prepared(tmp_path / "new", monkeypatch, fingerprint=False)
    make_dataset(folders[0])
    main([*OPTIONS, "-f", "0", "-np", "1"])
    fingerprint = json.loads((folders[1] / "Dataset801_Tiny" / "dataset_fingerprint.json").read_text())
    assert len(fingerprint["spacings"]) == 10
    remove(["-d", "801"])
    assert not (folders[1] / "Dataset801_Tiny").exists()


@pytest.mark.usefixtures("labels_are_read_once")
def test_dry_run_touches_nothing_and_shows_the_plan(folders, capsys):
    make_dataset(folders[0], splits=False, emphysema_every=2)
    before = tree_hashes(*folders)
    main([*OPTIONS, "--dry-run", "--target-share", "emphysema=0.2"])
    assert tree_hashes(*folders) == before
    said = capsys.readouterr().out
    for part in (
        "emphysema",
        "20.0%",
        "Estimate on cpu",
        "fold 4",
        "grouped by patient",
        "Dry run: nothing was written",
    ):
        assert part in said


def test_a_dry_run_counts_no_training_of_generators_that_are_finished(folders, monkeypatch, capsys):
    make_dataset(folders[0])
    main([*OPTIONS, "-f", "0"])
    remove(["-d", "801"])
    capsys.readouterr()
    monkeypatch.setattr("nnunet_difflung.pipeline.dry_run.estimate_seconds", lambda *_: (36000.0, 1200.0))
    for folds, said in (
        (("0",), "0 s of training and 20 min of painting for 1 fold (1 trained already)"),
        (("0", "1"), " and 40 min of painting for 2 folds (1 trained already)"),
        (("1",), " and 20 min of painting for 1 fold;"),
    ):
        main([*OPTIONS, "-f", *folds, "--dry-run"])
        shown = capsys.readouterr().out
        assert said in shown
        assert ("0 s of training" in shown) == (folds == ("0",))
        assert duration(36000.0) in shown or folds == ("0",), "of the one generator that is left"


def test_an_untrained_generator_is_stopped_by_the_gate(folders, capsys):
    folder = make_dataset(folders[0])
    before = tree_hashes(folder)
    from nnunet_difflung.commands.augment import entry

    options = [option for option in OPTIONS if option not in ("--gate", "report")]
    with pytest.raises(SystemExit) as stop:
        entry([*options, "-f", "0", "--method", "cbmat"])  # its network learns the level
    assert stop.value.code == 1
    assert tree_hashes(folder) == before
    captured = capsys.readouterr()
    said = captured.err
    assert "under-trained" in said
    assert "--epochs" in said
    assert "unpainted host" in captured.out, "what the gate is worth is said though no case was kept"
    assert len(said.strip().splitlines()[-1]) > 80


def test_a_picture_with_a_row_for_each_class(folders):
    make_dataset(folders[0])
    main([*OPTIONS, "-f", "0", "--target-share", "emphysema=0.2", "ILD=0.3"])
    picture = folders[2] / "Dataset801_Tiny" / "DiffLung__difflung" / "preview.png"
    assert picture.read_bytes()[:4] == b"\x89PNG"


UNTIL_PAINTED = [*OPTIONS[:4], "--epochs", "6", *OPTIONS[6:], "-f", "0", "--save-every", "0", "--steps", "6"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict:
    with pytest.MonkeyPatch.context() as patch:
        folders = prepared(tmp_path_factory.mktemp("undisturbed"), patch)
        folder = make_dataset(folders[0])
        assert run_command(UNTIL_PAINTED) == 0
        return results_of(folder, folders[2])


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGKILL, -9), (signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_in_training_and_in_painting_then_the_same_result(folders, undisturbed, sign, code):
    folder = make_dataset(folders[0])
    before = tree_hashes(folder)
    fold = folders[2] / "Dataset801_Tiny" / "DiffLung__difflung" / "fold_0"
    assert run_command(UNTIL_PAINTED, lambda: (fold / "checkpoint.safetensors").is_file(), sign) == code
    assert not (fold / "unet").exists()
    assert tree_hashes(folder) == before
    first = (fold / "training_log.jsonl").read_text().splitlines()[0]
    stopped = run_command(UNTIL_PAINTED, lambda: any(fold.glob("synthesis_*/painted/try0/*.npy")), sign)
    if stopped != 0:  # three tiny slices may be painted before the signal arrives
        assert stopped == code
        assert tree_hashes(folder) == before
    assert run_command(UNTIL_PAINTED) == 0
    assert results_of(folder, folders[2]) == undisturbed
    assert (fold / "training_log.jsonl").read_text().splitlines()[0] == first, "with its time: not trained anew"


def test_interrupted_painting_goes_on_where_it_stopped(folders, monkeypatch):
    from nnunet_difflung.painting import attempt

    make_dataset(folders[0], patients=6)
    options = [
        "-d",
        "801",
        "-f",
        "0",
        "--method",
        "copy_paste",
        "--gate",
        "report",
        "-device",
        "cpu",
        "--max-synthetic",
        "10",
        "--target-share",
        "emphysema=0.4",
        "ILD=0.4",
    ]
    painted, stop_at, real = [], [1], attempt.paint_jobs

    def counted(jobs, *rest):
        if len(painted) in stop_at:
            raise KeyboardInterrupt
        painted.append([(job.index, job.slices) for job in jobs])
        return real(jobs, *rest)

    monkeypatch.setattr(attempt, "paint_jobs", counted)
    with pytest.raises(KeyboardInterrupt):
        main(options)
    assert len(painted) == 1
    stop_at.clear()
    main(options)
    slices = [place for batch in painted for place in batch]
    assert len(painted) == 2
    assert len(set(slices)) == len(slices) == 10, "no slice is painted twice"
