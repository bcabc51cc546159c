"""Placebo cases from the command to the dataset: what they change, what is recorded, and that all can be undone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_difflung.audit.audit import audit
from nnunet_difflung.commands.augment import main
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.generator.families.copy import CopyPaste
from nnunet_difflung.injection.manifest import MANIFEST, read_manifest
from nnunet_difflung.painting import attempt as attempt_module
from nnunet_difflung.painting import painter as painter_module
from nnunet_difflung.runtime.files import write_json
from tests.support.commands import prepared, synthetic_arrays
from tests.support.tiny import HU, make_dataset, tree_hashes

MASKS = ["--max-synthetic", "4", "--target-share", "emphysema=0.4", "ILD=0.4", "--placebo", "0.5"]
COPY = ["-d", "801", "-f", "0", "--method", "copy_paste", "-device", "cpu", "-np", "1", *MASKS]
NETWORK = ["--preset", "fast", "--epochs", "1", "--batch-size", "4", "--steps", "2"]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    return prepared(tmp_path, monkeypatch)


def split_cases(folder: Path) -> tuple[dict[str, dict], dict[str, dict]]:
    """The records of the cases with lesions, and of the placebo cases."""
    cases = read_manifest(folder)["cases"]
    placebos = {name: case for name, case in cases.items() if case.get("placebo")}
    return {name: case for name, case in cases.items() if name not in placebos}, placebos


def check_placebos(folder: Path, method: str, paint: str = "composite") -> None:
    """Labels are the host's; intensities change in normal lung alone, and there in each slice that the record names."""
    raw, both = open_raw_dataset("801"), split_cases(folder)
    with_lesions, placebos = ({name: case for name, case in part.items() if case["method"] == method} for part in both)
    assert len(placebos) == len(with_lesions) == 4
    training = set(raw.training_cases(0))
    for name, record in placebos.items():
        image, label = synthetic_arrays(raw, name, folder)
        host, host_label = raw.read_image(record["host"])[0], raw.read_label(record["host"])[0]
        assert np.array_equal(label, host_label)
        changed = (image != host).any(0)
        assert set(np.flatnonzero(changed.any((1, 2)))) == set(record["slices"])
        if paint == "composite":
            assert raw.roles.is_normal(host_label)[changed].all()
        assert set(record["sources"]) <= training
        assert {op["lung"]["case"] for op in record["operations"]} <= set(record["sources"]) - {record["host"]}
        assert name in json.loads((folder / "splits_final.json").read_text())[0]["train"]


@pytest.mark.parametrize("volumes", [False, True])
def test_labels_stay_and_only_normal_lung_in_the_outlines_changes(folders, capsys, volumes):
    size = {"depth": 4} if volumes else {}
    folder = make_dataset(folders[0], patients=6, volumes=volumes, emphysema_every=2, **size)
    before = tree_hashes(folder)
    main(COPY if not volumes else [*COPY, "--max-synthetic", "16"])
    said = capsys.readouterr().out
    with_lesions, placebos = split_cases(folder)
    assert placebos
    assert "on top of that bound: outlines of lesions, repainted as the normal lung that they are" in said
    assert f"{len(placebos)} placebo case" in said
    if not volumes:
        check_placebos(folder, "copy_paste")
    (run,) = read_manifest(folder)["runs"]
    report = folders[2] / folder.name / "DiffLung__copy_paste" / "augment_report.json"
    (row,) = json.loads(report.read_text())["folds"]
    assert row["placebo"] == run["summary"]["placebo"]
    assert row["placebo"]["kept"] == len(placebos)
    assert row["placebo"]["share"] == round(len(placebos) / (len(with_lesions) + len(placebos)), 4)
    assert (report.parent / "preview.png").is_file()
    assert audit(folder.name, deep=True).problems == ()
    remove(["-d", "801"])
    assert tree_hashes(folder) == before


@pytest.mark.parametrize(
    ("methods", "paint"), [(["cbmat", "harmonise"], "composite"), (["pix2pix"], "composite"), (["cbmat"], "full")]
)
def test_every_method_paints_placebo_cases(folders, methods, paint):
    folder = make_dataset(folders[0], patients=6, emphysema_every=2)
    for method in methods:
        main([*COPY, *NETWORK, "--gate", "report", "--method", method, "--paint", paint])
        check_placebos(folder, method, paint)
    assert audit(folder.name, deep=True).problems == ()


def test_they_are_judged_as_normal_lung_and_never_as_a_class(folders):
    folder = make_dataset(folders[0], patients=6, emphysema_every=2)
    main([*COPY, "--gate", "report"])
    with_lesions, placebos = split_cases(folder)
    for record in placebos.values():
        assert record["quality"] == record["memorisation"] == {}
        row = record["placebo_quality"]["placebo"]
        assert abs(row["bias"]) < 60
        assert row["unpainted_passes"] is True
    assert all(record["quality"] and "placebo_quality" not in record for record in with_lesions.values())
    (run,) = read_manifest(folder)["runs"]
    for name, verdict in run["summary"]["verdicts"].items():
        hosts = sum("unpainted_passes" in record["quality"].get(name, {}) for record in with_lesions.values())
        assert verdict["unpainted"]["hosts"] == hosts


def wrong_normal_lung(monkeypatch) -> None:
    """The outlines of placebo cases, not those of lesions, are painted with −200 HU."""
    made = attempt_module.make_jobs

    def jobs(applied, *rest):
        if applied.planned.placebo:
            applied.pasted[:] = -200
        return made(applied, *rest)

    monkeypatch.setattr(attempt_module, "make_jobs", jobs)


def test_the_gate_drops_what_does_not_look_like_normal_lung(folders, monkeypatch, capsys):
    wrong_normal_lung(monkeypatch)
    folder = make_dataset(folders[0], patients=6, emphysema_every=2, size=64)
    main([*COPY, "--gate", "drop"])
    said = capsys.readouterr().out
    with_lesions, placebos = split_cases(folder)
    assert with_lesions
    assert not placebos
    assert said.count("from the normal lung of its own image") == 4
    assert "Warning: more than half of the placebo cases were dropped" in said
    assert read_manifest(folder)["runs"][0]["summary"]["placebo"]["kept"] == 0


def test_placebo_cases_that_a_reader_refuses_are_not_said_to_be_badly_painted(folders, tmp_path, capsys):
    folder = make_dataset(folders[0], patients=6, emphysema_every=2)
    main([*COPY, "--gate", "report"])
    refused = sorted(split_cases(folder)[1])[:3]
    remove(["-d", "801"])
    (tmp_path / "exclude.csv").write_text("\n".join(["case", *refused]) + "\n")
    capsys.readouterr()
    main([*COPY, "--gate", "report", "--exclude", str(tmp_path / "exclude.csv")])
    assert "more than half of the placebo cases" not in capsys.readouterr().out
    placebo = read_manifest(folder)["runs"][0]["summary"]["placebo"]
    assert (placebo["planned"], placebo["kept"], placebo["excluded"]) == (4, 1, 3)


def test_the_gate_only_reports_it_if_asked_to(folders, monkeypatch, capsys):
    wrong_normal_lung(monkeypatch)
    folder = make_dataset(folders[0], patients=6, emphysema_every=2)
    main([*COPY, "--gate", "report"])
    assert len(split_cases(folder)[1]) == 4
    assert "0 of 4 cases look like normal lung of the training cases" in capsys.readouterr().out


def test_placebo_cases_do_not_make_up_for_bad_lesions(folders, monkeypatch):
    """A generator whose lesions are all dropped is refused, although as many placebo cases are good."""
    from nnunet_difflung.errors import Failed

    made = attempt_module.make_jobs

    def jobs(applied, *rest):
        if not applied.planned.placebo:
            applied.pasted[:] = 300
        return made(applied, *rest)

    monkeypatch.setattr(attempt_module, "make_jobs", jobs)
    folder = make_dataset(folders[0], patients=6, emphysema_every=2)
    with pytest.raises(Failed, match=r"the gate dropped 4 of 4 cases"):
        main([*COPY, "--gate", "drop"])
    assert read_manifest(folder) is None


def test_an_interrupted_run_goes_on_to_the_same_cases(tmp_path, monkeypatch):
    made = []
    for place in ("whole", "interrupted"):
        with monkeypatch.context() as patch:
            folder = make_dataset(prepared(tmp_path / place, patch)[0], patients=6, emphysema_every=2)
            if place == "interrupted":
                with pytest.MonkeyPatch.context() as fault:
                    paint, batches = CopyPaste.paint, []

                    def fail(self, *arguments, paint=paint, batches=batches):
                        batches.append(1)
                        if len(batches) == 2:
                            raise KeyboardInterrupt
                        return paint(self, *arguments)

                    fault.setattr(CopyPaste, "paint", fail)
                    fault.setattr(painter_module, "Batches", lambda size, kind=painter_module.Batches: kind(3))
                    with pytest.raises(KeyboardInterrupt):
                        main([*COPY, "--gate", "report"])
                assert read_manifest(folder) is None
            main([*COPY, "--gate", "report"])
            manifest = read_manifest(folder)
            files = {name: entry["after"] for name, entry in manifest["files"].items() if "difflung_" in name}
            made.append((manifest["cases"], files))
    assert made[0] == made[1]
    assert any(case.get("placebo") for case in made[0][0].values())


def test_lung_of_a_validation_case_is_a_leak(folders):
    folder = make_dataset(folders[0], patients=6, emphysema_every=2)
    main([*COPY, "--gate", "report"])
    held_out = json.loads((folder / "splits_final.json").read_text())[0]["val"][0]
    manifest, (name, *_) = read_manifest(folder), split_cases(folder)[1]
    manifest["cases"][name]["operations"][0]["lung"]["case"] = held_out
    write_json(folder / MANIFEST, manifest)
    assert any(f"{name} was made from {held_out}" in problem.text for problem in audit(folder.name).problems)


def test_without_placebo_nothing_of_it_is_made_or_recorded(folders, monkeypatch, capsys):
    monkeypatch.setitem(HU, "emphysema", (-930.0, 20.0))
    folder = make_dataset(folders[0], patients=6, emphysema_every=2)
    main([*COPY, "--gate", "report", "--placebo", "0"])
    assert "placebo case" not in capsys.readouterr().out
    with_lesions, placebos = split_cases(folder)
    assert with_lesions
    assert not placebos
    content = json.dumps([with_lesions, read_manifest(folder)["runs"][0]["summary"]])
    assert "placebo" not in content
    assert '"lung"' not in content


def test_a_share_of_one_is_refused(capsys):
    for share in ("1", "-0.1"):
        with pytest.raises(SystemExit) as ended:
            main([*COPY, "--placebo", share])
        assert ended.value.code == 2
        assert "is not at least 0 and below 1" in capsys.readouterr().err
