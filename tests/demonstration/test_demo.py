"""The demo's own logic; its stages are the real commands, which have tests of their own."""

from __future__ import annotations

import json
import os
import sys

import pytest

from nnunet_difflung.commands.demo import main
from nnunet_difflung.demonstration.run import run
from nnunet_difflung.demonstration.small_trainings import (
    CONFIGURATION,
    make_small_configuration,
    pooled_dice,
    side_by_side,
)
from nnunet_difflung.demonstration.stages import Demo
from nnunet_difflung.errors import BadInput, Failed
from nnunet_difflung.trainers.dose import SCHEDULE, SHARE, dose_of
from tests.support.snapshot import snapshot


def test_small_configuration_inherits_and_keeps_the_stages(tmp_path):
    plans = {
        "configurations": {
            "2d": {
                "batch_size": 13,
                "architecture": {"arch_kwargs": {"n_stages": 6, "features_per_stage": [32, 64, 128, 256, 512, 512]}},
            }
        }
    }
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    make_small_configuration(tmp_path / "plans.json")
    after = json.loads((tmp_path / "plans.json").read_text())["configurations"]
    assert after["2d"] == plans["configurations"]["2d"]
    assert after[CONFIGURATION]["inherits_from"] == "2d"
    assert after[CONFIGURATION]["architecture"]["arch_kwargs"]["features_per_stage"] == [16, 32, 64, 128, 128, 128]


def test_a_small_configuration_for_crops_has_fewer_stages(tmp_path):
    stages = {
        "n_stages": 7,
        "features_per_stage": [32, 64, 128, 256, 512, 512, 512],
        "kernel_sizes": [[3, 3]] * 7,
        "strides": [[1, 1]] + [[2, 2]] * 6,
        "n_conv_per_stage": [2] * 7,
        "n_conv_per_stage_decoder": [2] * 6,
        "conv_bias": True,
    }
    plans = {"configurations": {"2d": {"patch_size": [288, 288], "architecture": {"arch_kwargs": stages}}}}
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    make_small_configuration(tmp_path / "plans.json", stages=5, patch_size=[64, 64], batch_size=10)
    made = json.loads((tmp_path / "plans.json").read_text())["configurations"][CONFIGURATION]
    assert (made["patch_size"], made["batch_size"]) == ([64, 64], 10)
    assert made["architecture"]["arch_kwargs"] == {
        "n_stages": 5,
        "features_per_stage": [16, 32, 64, 128, 128],
        "kernel_sizes": [[3, 3]] * 5,
        "strides": [[1, 1]] + [[2, 2]] * 4,
        "n_conv_per_stage": [2] * 5,
        "n_conv_per_stage_decoder": [2] * 4,
        "conv_bias": True,
    }


def test_a_small_configuration_of_another_one_has_its_name(tmp_path):
    flat, deep = ({"architecture": {"arch_kwargs": {"n_stages": n, "strides": [n] * n}}} for n in (2, 3))
    (tmp_path / "plans.json").write_text(json.dumps({"configurations": {"2d": flat, "3d_fullres": deep}}))
    make_small_configuration(tmp_path / "plans.json", configuration="3d_fullres")
    made = json.loads((tmp_path / "plans.json").read_text())["configurations"]
    assert set(made) == {"2d", "3d_fullres", "3d_fullres_demo"}
    assert made["3d_fullres_demo"]["inherits_from"] == "3d_fullres"
    assert made["3d_fullres_demo"]["architecture"]["arch_kwargs"]["strides"] == [3, 3, 3]


@pytest.mark.parametrize(("size", "crop"), [(288, 64), (40, 32)])
def test_the_demos_network_trains_on_crops(tmp_path, monkeypatch, size, crop):
    seen = {}
    monkeypatch.setattr(Demo, "call", lambda self, arguments: None)
    monkeypatch.setattr(
        "nnunet_difflung.demonstration.stages.make_small_configuration", lambda path, **changes: seen.update(changes)
    )
    Demo(tmp_path, size=size).make_plans()
    assert seen["patch_size"] == [crop, crop]
    assert crop % 2 ** (seen["stages"] - 1) == 0


def test_the_demo_has_pixels_of_a_clinical_size(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(Demo, "call", lambda self, arguments: called.extend(arguments))
    Demo(tmp_path).make_phantom()
    size = int(called[called.index("--size") + 1])
    assert 360 / size <= 1.4
    assert "--classic" not in called


def test_pooled_dice_counts_voxels_not_cases():
    cases = [{"metrics": {"1": {"TP": 90, "FP": 0, "FN": 10}}}, {"metrics": {"1": {"TP": 0, "FP": 10, "FN": 0}}}]
    assert pooled_dice(cases, "1") == pytest.approx(180 / 200)


def test_finished_stages_are_not_repeated_and_other_options_are_refused(tmp_path, monkeypatch):
    done = []

    def stages(self):
        def second():
            done.append("second")
            if len(done) < 3:
                raise Failed("interrupted")

        return [("first", lambda: done.append("first")), ("second", second)]

    monkeypatch.setattr(Demo, "stages", stages)
    monkeypatch.setattr("nnunet_difflung.demonstration.run._summary", lambda demo, seconds: {"seconds": seconds})
    copied = []
    monkeypatch.setattr(
        "nnunet_difflung.demonstration.run.copy_file", lambda *paths: copied.append(paths[0].parent.name)
    )
    manifest = tmp_path / "nnUNet_raw" / "Dataset800_ChestPhantom" / "difflung_manifest.json"
    with pytest.raises(Failed):
        run(Demo(tmp_path))
    manifest.parent.mkdir()
    manifest.write_text('{"runs": [{"method": "cbmat"}]}')  # as an earlier version's demo began
    assert run(Demo(tmp_path))["seconds"].keys() == {"first", "second"}
    assert copied == ["DiffLung__cbmat"]
    assert done == ["first", "second", "second"]
    assert json.loads((tmp_path / "summary.json").read_text())["seconds"]
    with pytest.raises(BadInput, match="--overwrite"):
        run(Demo(tmp_path, epochs=1))


def test_a_dose_in_the_users_shell_does_not_reach_the_trainings(tmp_path):
    show = [sys.executable, "-c", f"import os; print([os.environ.get(name) for name in ('{SHARE}', '{SCHEDULE}')])"]
    side_by_side({tmp_path / "a.log": show}, {**os.environ, SHARE: "0.5", SCHEDULE: "falling"})
    assert (tmp_path / "a.log").read_text().strip() == "['', '']"
    assert dose_of({SHARE: "", SCHEDULE: ""}, None) is None


def test_a_failing_command_names_its_log(tmp_path):
    with pytest.raises(Failed, match="b.log"):
        side_by_side({tmp_path / "a.log": ["true"], tmp_path / "b.log": ["false"]}, {"PATH": "/bin:/usr/bin"})


@pytest.mark.parametrize(("sent", "words"), [("TERM", "or the system;"), ("KILL", "when memory runs out")])
def test_a_command_that_was_killed_has_no_message_to_look_for(tmp_path, sent, words):
    dying = [sys.executable, "-c", f"import os, signal; os.kill(os.getpid(), signal.SIG{sent})"]
    for call in (lambda: Demo(tmp_path).call(dying), lambda: side_by_side({tmp_path / "a.log": dying}, {})):
        with pytest.raises(Failed, match=rf"was stopped by SIG{sent}, .*{words}.* run the same command again") as told:
            call()
        assert "message" not in str(told.value)
    with pytest.raises(Failed, match="its message is above"):
        Demo(tmp_path).call(["false"])


@pytest.mark.parametrize("linked", [False, True])
def test_a_demo_does_not_begin_among_a_users_datasets(tmp_path, monkeypatch, linked):
    monkeypatch.setattr(Demo, "stages", lambda self: pytest.fail("the demo began"))
    raw = tmp_path / "data" / "nnUNet_raw"
    (raw / "Dataset800_ChestPhantom").mkdir(parents=True)
    folder = raw.parent
    if linked:
        folder = tmp_path / "demo"
        folder.mkdir()
        (folder / "nnUNet_raw").symlink_to(raw)
    before = snapshot(tmp_path, folder_times=True)
    with pytest.raises(BadInput, match="nnUNet_raw is not the folder of a demo"):
        main(["-o", str(folder)])
    assert snapshot(tmp_path, folder_times=True) == before


@pytest.mark.parametrize(
    "case", ["not a demo", "a file beside it", "a link", "only nnU-Net's folders", "a dataset of a user"]
)
def test_overwrite_deletes_nothing_but_a_demo(tmp_path, monkeypatch, case):
    monkeypatch.setattr("nnunet_difflung.commands.demo.run", lambda _: pytest.fail("the demo began"))
    folder = tmp_path / "demo"
    (folder / "nnUNet_raw").mkdir(parents=True)
    if case == "a dataset of a user":
        (folder / "nnUNet_raw" / "Dataset801_Mine").mkdir()
    elif case != "only nnU-Net's folders":
        (folder / "thesis.docx").write_text("precious")
    if case in ("a file beside it", "a dataset of a user"):
        (folder / "progress.json").write_text("{}")
    place = folder
    if case == "a link":
        place = tmp_path / "link"
        place.symlink_to(folder)
    before = snapshot(tmp_path, folder_times=True)
    with pytest.raises(BadInput, match="does not hold a demo and nothing else"):
        main(["-o", str(place), "--overwrite"])
    assert snapshot(tmp_path, folder_times=True) == before


def test_overwrite_deletes_a_demo(tmp_path, monkeypatch):
    class Begun(Exception):
        pass

    def begin(demo: Demo) -> None:
        assert not demo.folder.exists()
        raise Begun

    monkeypatch.setattr("nnunet_difflung.commands.demo.run", begin)
    for name in (
        "nnUNet_raw/Dataset800_ChestPhantom",
        "nnUNet_raw/.Dataset800_ChestPhantom.partial",
        "nnUNet_results",
        "predictions_difflung",
    ):
        (tmp_path / "demo" / name).mkdir(parents=True)
    for name in ("progress.json", "summary.json", "preview.png", "report.html", "nnUNetv2_train_reference.log"):
        (tmp_path / "demo" / name).write_text("{}")
    with pytest.raises(Begun):
        main(["-o", str(tmp_path / "demo"), "--overwrite"])


def test_threads_sleep_while_they_wait_unless_the_user_says_otherwise(tmp_path, monkeypatch):
    """A second program on the machine makes threads that spin ten times slower."""
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert Demo(tmp_path).environment()["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert Demo(tmp_path).environment()["OMP_WAIT_POLICY"] == "ACTIVE"
