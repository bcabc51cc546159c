"""The report says what is on record, of every kind of run, and opens in a browser."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nnunet_difflung import __version__
from nnunet_difflung.commands.augment import main
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.commands.report import main as report
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput, Failed
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.lesions.plan import shares
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import fold_folder, results_folder
from nnunet_difflung.pipeline.exclusion import read_excluded, unknown
from nnunet_difflung.report.blind_reading import _look
from nnunet_difflung.report.gallery import ranked
from nnunet_difflung.report.injected import cases_of
from nnunet_difflung.report.page import augment_page, report_file
from nnunet_difflung.report.records import read_records, without_folders
from nnunet_difflung.report.verdicts import verdicts
from nnunet_difflung.runtime.files import read_json, write_json
from nnunet_difflung.runtime.wording import counted, quoted
from tests.pipeline.test_values import change, window
from tests.support.browser import in_browser
from tests.support.tiny import LABELS, make_dataset

COPY = ["-d", "801", "--method", "copy_paste", "-device", "cpu"]
KEEP = [*COPY, "--gate", "report"]
NAME = "Dataset801_Tiny"

pytestmark = pytest.mark.usefixtures("fingerprint")


def html(name: str = NAME, method: str = "copy_paste") -> str:
    return report_file(name, method).read_text(encoding="utf-8")


def text_of(page: str) -> str:
    return unescape(re.sub(r"\s+", " ", re.sub(r"<(style|script)>.*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL)))


def lights(method: str = "copy_paste") -> dict[str, tuple[str, str]]:
    records = read_records(open_raw_dataset("801"), method)
    return {light.title: (light.state, light.text) for light in verdicts(records)}


def test_augment_writes_it_and_says_where(folders, capsys) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0", "--dry-run"])
    assert not report_file(NAME, "copy_paste").exists(), "a dry run writes nothing"
    main([*KEEP, "-f", "0"])
    assert f"Report: {report_file(NAME, 'copy_paste')}" in capsys.readouterr().out
    manifest, page = read_manifest(folders[0] / NAME), text_of(html())
    for identifier in manifest["cases"]:
        assert identifier in page
    (row,) = read_json(results_folder(NAME, "copy_paste") / "augment_report.json")["folds"]
    total = sum(row["before"].values())
    assert f"{row['before']['emphysema'] / total:.2%}" in page
    assert "nnUNetv2_train 801 2d 0 -tr nnUNetTrainerDiffLungCopyPaste" in page
    assert "1 fold of 5 finished" in page


def next_lines(page: str) -> list[str]:
    return re.findall(r"nnUNetv2_(?:plan|train|predict).*", unescape(page))


def test_the_next_commands_are_those_of_augment_unless_others_are_wanted(folders, tmp_path, capsys) -> None:
    import nnunet_difflung as dl

    make_dataset(folders[0], volumes=True)
    main([*KEEP, "-f", "0", "-c", "3d_fullres"])
    printed = next_lines(capsys.readouterr().out)
    assert next_lines(html()) == printed
    assert len(printed) == 4
    assert "nnUNetv2_train 801 3d_fullres 0 -tr nnUNetTrainerDiffLungCopyPaste -device cpu" in printed
    report(["-d", "801"])
    assert next_lines(html()) == printed
    assert next_lines(dl.write_report(801, tmp_path / "a.html").read_text("utf-8")) == printed
    report(["-d", "801", "-c", "3d_lowres", "-device", "mps"])
    others = [line.replace("3d_fullres", "3d_lowres").replace("-device cpu", "-device mps") for line in printed]
    assert next_lines(html()) == others
    path = dl.write_report(801, tmp_path / "b.html", configuration="3d_lowres", device="mps")
    assert next_lines(path.read_text("utf-8")) == others
    known = results_folder(NAME, "copy_paste") / "augment_report.json"
    write_json(known, {k: v for k, v in read_json(known).items() if k not in ("configuration", "device")})
    report(["-d", "801"])  # of an earlier version
    assert next_lines(html()) == [line.replace("3d_fullres", "2d").replace(" -device cpu", "") for line in printed]


def test_what_augment_writes_has_the_configuration_and_device_of_its_request(folders, monkeypatch) -> None:
    """Not those on record, which an earlier command may have written."""
    make_dataset(folders[0], volumes=True)
    given = []
    monkeypatch.setattr("nnunet_difflung.report.page.write_report", lambda *a, **_: given.append(a) or a[0].folder)
    main([*KEEP, "-f", "0", "-c", "3d_lowres"])
    assert [arguments[3:5] for arguments in given] == [("3d_lowres", "cpu")]


def test_every_part_comes_from_the_records(folders) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0", "1"])
    records = read_records(open_raw_dataset("801"), "copy_paste")
    page = augment_page(records, "2d", "cpu")
    sections = {section.title: section.blocks for section in page.sections}
    cases = next(block for block in sections["Cases"] if hasattr(block, "rows"))
    assert [row[0] for row in cases.rows] == sorted(records.cases)
    shown = {picture.identifier for picture in page.pictures if picture.identifier}
    assert shown <= set(records.cases)
    assert {p.caption for p in page.pictures if not p.identifier} <= set(records.training_cases)
    assert [view for view in page.views if "window" in view]
    assert any(view.startswith("before") for view in page.views)
    figures = next(block for block in sections["Painted against real"] if hasattr(block, "rows"))
    expected = sum(len(of["pooled"]) for row in records.rows for of in row["verdicts"].values())
    assert len(figures.rows) == expected
    audited = next(block for block in sections["Audit"] if hasattr(block, "rows"))
    assert [row[0] for row in audited.rows] == ["0", "1", "2", "3", "4"]


def test_it_opens_without_complaint(folders) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0"])
    found, said = in_browser(report_file(NAME, "copy_paste"), "return document.querySelectorAll('.tile').length;")
    assert found == len(augment_page(read_records(open_raw_dataset("801"), "copy_paste"), "2d", "cpu").pictures)
    assert said == []


def test_volumes_are_shown_in_three_planes(folders) -> None:
    make_dataset(folders[0], volumes=True, depth=6)
    main([*KEEP, "-f", "0"])
    page = augment_page(read_records(open_raw_dataset("801"), "copy_paste"), "3d_fullres", "cpu")
    planes = [picture for picture in page.pictures if picture.caption.endswith(("coronal", "sagittal"))]
    assert len(planes) == 2 * len({"real", "synthetic"}) * len(painted_classes())
    spacing = read_records(open_raw_dataset("801"), "copy_paste").raw.read_image("lung_001")[1]["spacing"]
    for picture in planes:
        assert picture.aspect == pytest.approx(spacing[0] / spacing[1], rel=1e-3)


def painted_classes() -> set[str]:
    manifest = read_manifest(open_raw_dataset("801").folder)
    return {op["pathology"] for case in manifest["cases"].values() for op in case["operations"]}


@pytest.mark.parametrize("cached", [True, False])
def test_grey_levels_in_a_channel_called_ct_are_neither_called_hu_nor_shown_in_windows_of_hu(
    folders, capsys, cached
) -> None:
    folder = make_dataset(folders[0], patients=6)
    change(folder, window)
    main([*KEEP, "-f", "0", "--window=0,255", "--placebo", "0.5"])
    lines = [line for line in capsys.readouterr().out.splitlines() if "Wasserstein distance" in line]
    assert len(lines) >= 2
    assert not any(" HU" in line for line in lines), lines
    if not cached:
        shutil.rmtree(folders[2] / NAME / "DiffLung__cache")
    raw = open_raw_dataset("801")
    records = read_records(raw, "copy_paste")
    page = augment_page(records, "2d", "cpu")
    assert {view for view in page.views if "before" not in view} == {"0 to 255"}
    (chart,) = {block.caption.partition(": ")[2][:26] for block in blocks_of(page) if "intensities" in str(block)}
    assert chart == "intensities in grey levels"
    assert list(_look(raw, read_manifest(raw.folder), "copy_paste").looks.windows) == ["0 to 255"]


def test_all_classes_of_grey_levels_are_shown_in_the_same_window(folders) -> None:
    folder = make_dataset(folders[0], patients=6, channel_names={"0": "grey"})
    for n in range(1, 7):
        change(folder, lambda values, n=n: values + np.int16(100 * n), f"lung_00{n}*")
    main([*KEEP, "-f", "0"])
    assert len(painted_classes()) == 2
    views = augment_page(read_records(open_raw_dataset("801"), "copy_paste"), "2d", "cpu").views
    assert [view for view in views if "before" not in view] == [views[0]]
    assert [view for view in views if "before" in view] == [f"before, {views[0]}"]


def blocks_of(page) -> list:
    return [block for section in page.sections for block in section.blocks if hasattr(block, "svg")]


def test_placebo_cases_do_not_count_as_cases_with_new_lesions(folders) -> None:
    make_dataset(folders[0], patients=6)
    main([*KEEP, "-f", "0", "--placebo", "0.5"])
    raw = open_raw_dataset("801")
    manifest = read_manifest(raw.folder)
    placebo = {i for i, case in manifest["cases"].items() if case.get("placebo")}
    assert placebo
    page = augment_page(read_records(raw, "copy_paste"), "2d", "cpu")
    blocks = {section.title: section.blocks for section in page.sections}["Classes"]
    (table,) = [block for block in blocks if hasattr(block, "rows")]
    for name, *_, made in table.rows:
        with_it = {i for i, case in manifest["cases"].items() if name in (op["pathology"] for op in case["operations"])}
        assert made.number == len(with_it - placebo)
        assert set(cases_of(manifest, "copy_paste", name)) == with_it - placebo


def test_odd_names_of_classes_stay_what_they_are(folders) -> None:
    odd = '<b>emphysema</b> & "x"'
    folder = make_dataset(folders[0])
    described = read_json(folder / "dataset.json")
    described["labels"] = {odd if name == "emphysema" else name: value for name, value in LABELS.items()}
    write_json(folder / "dataset.json", described)
    main([*KEEP, "-f", "0"])
    assert odd in text_of(html())
    assert "<b>" not in html()


def test_without_ids_of_real_cases(folders, tmp_path) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0"])
    target = tmp_path / "elsewhere" / "anonymous.html"
    target.parent.mkdir()
    assert report(["-d", "801", "--anonymous", "-o", str(target)]) == 0
    page = target.read_text()
    assert "lung_0" not in page
    assert re.search(r"real \d+", page)
    assert "lung_0" in html(), "the usual report has them"
    assert str(folders[0].parent) not in page


def test_patients_called_by_numbers_leave_other_numbers_alone(folders, tmp_path) -> None:
    make_dataset(folders[0])
    listed = tmp_path / "mueller.csv"
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (folders[0] / NAME / "labelsTr").iterdir())
    listed.write_text("case,patient\n" + "".join(f"{case},{int(case[5:8]) - 1}\n" for case in cases))
    main([*KEEP, "-f", "0", "--patients", str(listed)])
    target = tmp_path / "anonymous.html"
    report(["-d", "801", "--anonymous", "-o", str(target)])
    page = text_of(target.read_text())
    assert "nnUNetv2_train 801 2d 0 -tr" in page
    assert f"nnunet_difflung {__version__} (method copy_paste" in page
    assert not re.search(r"patient \d", page.replace("training patient", ""))
    assert "mueller" not in page
    assert "lung_0" not in page


def test_names_in_a_problem_are_hidden_and_its_figures_are_not(folders) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0", "--patient-pattern", r"lung_00(\d)_s\d+"])
    records = read_records(open_raw_dataset("801"), "copy_paste", anonymous=True)
    said = records.hidden("fold 1 has the same patients on both sides: 1, 2 and 3 (0.2, 2.5, 2%), as lung_001_s01")
    assert said == (
        "fold 1 has the same patients on both sides: patient 1, patient 2 and patient 3 (0.2, 2.5, 2%), as real 2"
    )


PEOPLE = ("mueller", "schmidt", "huber", "wagner", "becker")


def test_names_that_only_a_reading_or_a_record_knows_are_hidden_too(folders) -> None:
    folder = make_dataset(folders[0], patients=10, slices=1)
    for n in range(10):
        old, new = f"lung_{n + 1:03d}_s00", f"{PEOPLE[n // 2]}_t{n % 2}"
        for path in [*folder.glob(f"*Tr/{old}*")]:
            path.rename(path.with_name(path.name.replace(old, new)))
        splits = folder / "splits_final.json"
        splits.write_text(splits.read_text().replace(old, new))
    main([*KEEP, "-f", "0", "--patient-pattern", "(.+)"])
    raw = open_raw_dataset("801")
    records = read_records(raw, "copy_paste", anonymous=True)
    said = records.hidden("mueller_t0 and mueller_t1 are on both sides of fold 0, and may both be of patient mueller")
    assert not re.search("|".join(PEOPLE), said)
    host = next(iter(records.cases.values()))["host"]
    gone = replace(raw, cases={i: case for i, case in raw.cases.items() if i != host})
    without = replace(records, raw=gone)
    assert re.fullmatch(r"real \d+", without.called(host))
    assert host not in without.hidden(f"made from {host}")
    assert without.called("never_heard") == "a real case of earlier"


@pytest.mark.parametrize("raw", ["my raw", "raw/", "/raw", "öffentlich"])
def test_commands_with_variables_instead_of_folders_can_be_typed(monkeypatch, tmp_path, raw) -> None:
    for name, folder in (("raw", raw), ("preprocessed", "pre"), ("results", "raw_results")):
        monkeypatch.setenv(f"nnUNet_{name}", f"{tmp_path}/{folder}")
        (tmp_path / folder.strip("/")).mkdir()
    images = quoted(tmp_path / raw.strip("/") / "Dataset801_X" / "imagesTs")
    text = without_folders(
        f"predict -i {images} -o {tmp_path}/raw_results; not {tmp_path}/pre.old, but {tmp_path}/pre."
    )
    assert shlex.split(text)[2] == "$nnUNet_raw/Dataset801_X/imagesTs"
    assert "'" not in text
    assert text.endswith(f"-o $nnUNet_results; not {tmp_path}/pre.old, but $nnUNet_preprocessed.")


def test_fold_all_is_none_of_the_split(folders) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "all"])
    assert lights()["Run"] == ("good", "fold all finished.")
    main([*KEEP, "-f", "0", "1"])
    assert lights()["Run"] == ("good", "2 folds of 5 and fold all finished.")


def test_pictures_without_a_spacing_have_no_bar_in_mm(folders) -> None:
    make_dataset(folders[0], file_ending=".png", channel_names={"0": "grey"})
    main([*KEEP, "-f", "0"])
    pictures = augment_page(read_records(open_raw_dataset("801"), "copy_paste"), "2d", "cpu").pictures
    assert pictures
    assert {picture.bar for picture in pictures} == {None}


def test_a_folder_in_the_place_of_the_file_is_refused(folders, tmp_path) -> None:
    make_dataset(folders[0])
    with pytest.raises(BadInput, match="is a folder; give the name of an HTML file"):
        report(["-d", "801", "-o", str(tmp_path)])


def test_the_api_writes_the_same_page(folders, tmp_path) -> None:
    import nnunet_difflung as dl

    make_dataset(folders[0])
    main([*KEEP, "-f", "0"])
    path = dl.write_report(801, tmp_path / "page.html", anonymous=True)
    assert path == tmp_path / "page.html"
    assert "lung_0" not in path.read_text()
    assert dl.write_report(dl.load_dataset(801)) == report_file(NAME, "copy_paste")


def test_no_folder_of_this_machine_is_named(folders) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0"])
    assert str(folders[0].parent) not in html()
    assert "$nnUNet_raw" in html()


def test_a_run_whose_cases_were_all_dropped(folders, monkeypatch) -> None:
    make_dataset(folders[0])
    monkeypatch.setattr("nnunet_difflung.painting.synthesis.accepted", lambda sampling, measured: False)
    with pytest.raises(Failed, match="nothing was injected"):
        main([*COPY, "-f", "0", "--gate", "drop"])
    state, said = lights()["Run"]
    assert state == "bad"
    assert "nothing was injected" in said
    assert lights()["Dropped cases"][0] == "bad"
    page = text_of(html())
    assert "painted and dropped" in page
    assert "there is nothing to show" in page
    monkeypatch.undo()


def test_the_error_of_a_run_is_not_hidden_by_that_of_its_report(folders, monkeypatch, capsys) -> None:
    make_dataset(folders[0])
    monkeypatch.setattr("nnunet_difflung.painting.synthesis.accepted", lambda sampling, measured: False)
    monkeypatch.setattr("nnunet_difflung.report.page.write_page", lambda *_: 1 / 0)
    with pytest.raises(Failed, match="nothing was injected"):
        main([*COPY, "-f", "0", "--gate", "drop"])
    assert "no report was written (ZeroDivisionError" in capsys.readouterr().err


def test_an_interrupted_run_names_the_folds_that_are_left(folders) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0"])
    assert lights()["Run"][0] == "good"
    begun = fold_folder(NAME, "copy_paste", 3)
    begun.mkdir(parents=True)
    assert lights()["Run"] == (
        "look",
        "Not all folds are finished: 3 (generator not finished). Run the same command again to resume.",
    )


def test_removed_cases_are_said_to_be_removed(folders) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0"])
    remove(["-d", "801"])
    report(["-d", "801", "--method", "copy_paste"])
    state, said = lights()["Run"]
    assert state == "look"
    assert "no longer in the dataset" in said
    remove(["-d", "801", "--generators"])
    assert not results_folder(NAME, "copy_paste").exists(), "the report goes with the generators"


def test_what_was_removed_counts_in_nothing_that_the_report_says(folders) -> None:
    """A manuscript would otherwise tell of folds and cases that no training has seen."""
    folder = make_dataset(folders[0])
    main([*KEEP, "-f", "0", "1", "--max-synthetic", "2"])
    remove(["-d", "801"])
    main([*KEEP, "-f", "0", "--max-synthetic", "1"])
    report(["-d", "801", "--method", "copy_paste"])
    page, number = text_of(html()), len(read_manifest(folder)["cases"])
    assert "for 1 fold of an nnU-Net dataset" in page
    assert f"Of {number} planned cases {number} were kept." in page
    assert lights()["Dropped cases"] == ("good", f"{number} of {number} planned cases were kept.")
    assert "Fold 1: share of lung" not in page
    assert lights()["Run"] == ("look", "The synthetic cases of fold 1 are no longer in the dataset (removed).")
    main([*KEEP, "-f", "1", "--max-synthetic", "1"])
    remove(["-d", "801", "-f", "0"])
    report(["-d", "801", "--method", "copy_paste"])
    assert "nnUNetv2_train 801 2d 1 " in html()
    assert "nnUNetv2_train 801 2d 0 " not in html()
    remove(["-d", "801"])
    report(["-d", "801", "--method", "copy_paste"])
    page = text_of(html())
    assert "planned cases" not in page
    assert "nnUNetv2_train" not in page
    assert "The dataset holds no synthetic cases of this method, so there is nothing to write about." in page


def test_a_fold_that_was_stopped_is_in_no_manuscript(folders) -> None:
    folder = make_dataset(folders[0])
    main([*KEEP, "-f", "0", "--max-synthetic", "1"])
    path = results_folder(NAME, "copy_paste") / "augment_report.json"
    content = read_json(path)
    (row,) = content["folds"]
    stopped = {**row, "fold": 1, "injected": 0, "stopped": "fold 1: the gate dropped 1 of 1 cases"}
    write_json(path, {**content, "folds": [row, stopped]})
    report(["-d", "801", "--method", "copy_paste"])
    page, number = text_of(html()), len(read_manifest(folder)["cases"])
    assert "for 1 fold of an nnU-Net dataset" in page
    assert f"Of {number} planned cases {number} were kept." in page
    assert lights()["Run"][0] == "bad"


def test_lights_of_targets_and_patients_follow_the_records(folders) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0"])
    records = read_records(open_raw_dataset("801"), "copy_paste")
    ((run,), (row,)) = records.runs, records.rows
    planned = shares(row["after"])
    assert run["summary"]["targets"]

    def light(title: str, **changed) -> tuple[str, str]:
        (found,) = [light for light in verdicts(replace(records, **changed)) if light.title == title]
        return found.state, found.text

    for reached, state in ((0.95, "good"), (0.85, "look")):
        targets = {name: planned[name] / reached for name in run["summary"]["targets"]}
        summary = {**run["summary"], "targets": targets}
        found, said = light("Targets", manifest={**records.manifest, "runs": [{**run, "summary": summary}]})
        assert found == state
        for name, target in targets.items():
            assert (f"{name} in fold 0 ({planned[name]:.1%} of {target:.1%})" in said) == (state == "look")
    for pairs, framed, state in ((2, 1, "look"), (0, 1, "good"), (0, 0, "unknown")):
        images = {"suspicious_pairs_of_cases": pairs, "framed": framed, "judged": "all of them"}
        found, said = light("Patients", report={**records.report, "images": images})
        assert found == state
        assert said.startswith("2 pairs of training and validation cases may show") == bool(pairs)
        assert said.endswith("Pictures of training and validation cases: all of them.")


@pytest.mark.parametrize("number", [3, 5])
def test_the_worst_case_is_the_one_that_is_furthest_from_real_lesions(number) -> None:
    distances = {"a": (4.0, 10.0), "b": (9.0, 10.0), "c": (1.0, 10.0), "d": (8.0, 4.0), "e": (2.0, 10.0)}
    cases = {
        identifier: {"quality": {"ILD": {"wasserstein": distance, "max_wasserstein": most}}}
        for identifier, (distance, most) in distances.items()
    }
    records = SimpleNamespace(with_host=lambda name: sorted(cases), cases=cases)
    shown = ranked(records, "ILD", number, np.random.default_rng(0))
    assert shown[:3] == [("d", "worst"), ("a", "median"), ("c", "best")]
    assert sorted(shown[3:]) == [("b", "random"), ("e", "random")][: number - 3]


@pytest.mark.parametrize(("within", "state"), [(True, "good"), (False, "look"), (None, "unknown")])
def test_it_says_whether_the_edges_of_painted_regions_show(folders, within, state) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0"])
    path = results_folder(NAME, "copy_paste") / "augment_report.json"
    content = read_json(path)
    low, high = (None, None) if within is None else (0.9, 1.1)
    seam = {
        "figure": "seam",
        "channel": 0,
        "value": 1.52,
        "real": 1.0,
        "low": low,
        "high": high,
        "within": within,
        "cases": 9,
    }
    for of in content["folds"][0]["verdicts"].values():
        of["seam"] = [seam]
    write_json(path, content)
    found, said = lights()["Edges"]
    assert found == state
    assert ("emphysema in fold 0: step at the edge of what was painted 1.52 times" in said) == (within is False)
    page = augment_page(read_records(open_raw_dataset("801"), "copy_paste"), "2d", "cpu")
    blocks = {section.title: section.blocks for section in page.sections}["Painted against real"]
    (table,) = [block for block in blocks if "Edges" in str(getattr(block, "caption", ""))]
    assert [row[-1] for row in table.rows] == [
        {True: "in the range", False: "outside: the edge shows", None: "not judged: too few cases"}[within]
    ] * len(content["folds"][0]["verdicts"])
    for of in content["folds"][0]["verdicts"].values():
        del of["seam"]  # as an earlier version wrote it
    write_json(path, content)
    assert "Edges" not in lights()


@pytest.mark.parametrize(("limit", "said"), [(0.1, "lie where real ones lie"), (0.19, "only one of 0.19 in the AUC")])
def test_few_lesions_are_not_called_like_real_ones(folders, limit, said) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0"])
    path = results_folder(NAME, "copy_paste") / "augment_report.json"
    content = read_json(path)
    of = {
        "auc": 0.5,
        "limit": limit,
        "alike": True,
        "planned": 1.0,
        "real": 1.0,
        "number_planned": 12,
        "number_real": 9,
    }
    content["folds"][0]["likeness"] = {"emphysema": {"size": of, "depth": {**of, "limit": 0.1}}}
    write_json(path, content)
    state, text = lights()["Place and crowding of lesions"]
    assert state == "good"
    assert said in text


@pytest.mark.parametrize(
    ("lesions", "cases", "share", "state", "said"),
    [
        (10, 40, 0.125, "good", "so few lesions or cases show them only from 48% of the cases on"),
        (10, 40, 0.6, "look", "emphysema in fold 0: 60% (11% expected)"),
        (300, 400, 0.0125, "good", "no closer to training slices than patients to each other"),
        (300, 400, 0.1, "look", "emphysema in fold 0: 10% (1% expected)"),
        (10, 1, 1.0, "unknown", "too few real lesions (ten are needed) or synthetic cases"),
    ],
)
def test_copies_are_judged_by_how_many_are_expected_of_as_many_real_lesions(
    folders, lesions, cases, share, state, said
) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0"])
    path = results_folder(NAME, "copy_paste") / "augment_report.json"
    content = read_json(path)
    of = {"cases": cases, "mean": 0.5, "share_above_real_p99": share, "real_regions": lesions, "searched": 1.0}
    content["folds"][0]["memorisation"] = {"emphysema": {**of, "patients": 10}}
    write_json(path, content)
    found, text = lights()["Copies"]
    assert (found, said in text) == (state, True), text
    page = augment_page(read_records(open_raw_dataset("801"), "copy_paste"), "2d", "cpu")
    blocks = {section.title: section.blocks for section in page.sections}["Painted against real"]
    (table,) = [block for block in blocks if "Memorisation" in str(getattr(block, "caption", ""))]
    assert table.rows[0][table.columns.index("expected")].text == ("11%" if lesions == 10 else "1%")


def test_a_leak_comes_first(folders) -> None:
    folder = make_dataset(folders[0])
    main([*KEEP, "-f", "0"])
    case = next(iter(read_manifest(folder)["cases"].values()))
    patient = case["host"].rpartition("_")[0]
    splits = read_json(folder / "splits_final.json")
    for identifier in [i for i in splits[0]["train"] if i.startswith(patient)]:
        splits[0]["train"].remove(identifier)
        splits[0]["val"].append(identifier)
    write_json(folder / "splits_final.json", splits)
    report(["-d", "801"])
    assert lights()["Leaks"][0] == "bad"
    assert html().index("light bad") < html().index("light good")
    assert patient in text_of(html()), "the problem names the case"
    report(["-d", "801", "--anonymous"])
    assert "lung_0" not in html()
    assert lights()["Leaks"][0] == "bad"


def take_out(folder: Path, identifiers: set[str]) -> None:
    """Takes real cases out of a dataset by hand, as after a patient has withdrawn consent."""
    for identifier in identifiers:
        for path in folder.glob(f"*Tr/{identifier}*"):
            path.unlink()
    splits = read_json(folder / "splits_final.json")
    for split in splits:
        for side in split:
            split[side] = [i for i in split[side] if i not in identifiers]
    write_json(folder / "splits_final.json", splits)
    described = read_json(folder / "dataset.json")
    write_json(folder / "dataset.json", described | {"numTraining": described["numTraining"] - len(identifiers)})


@pytest.mark.parametrize("cached", [True, False])
def test_cases_whose_host_was_taken_out_are_counted_and_not_shown(folders, cached) -> None:
    folder = make_dataset(folders[0], patients=6)
    main([*KEEP, "-f", "0"])
    if not cached:
        shutil.rmtree(folders[2] / NAME / "DiffLung__cache")
    cases = read_manifest(folder)["cases"]
    host = next(iter(cases.values()))["host"]
    of_host = {i for i, case in cases.items() if case["host"] == host}
    assert of_host < set(cases)
    take_out(folder, {host})
    for more in ([], ["--anonymous"]):
        assert report(["-d", "801", *more]) == 0
        assert f"Not shown: {counted(len(of_host), 'synthetic case')} whose host is no longer in" in text_of(html())
        assert lights()["Leaks"][0] == "bad"
        assert "Leaks" in text_of(html())
    page = augment_page(read_records(open_raw_dataset("801"), "copy_paste"), "2d", "cpu")
    shown = {picture.identifier for picture in page.pictures if picture.identifier}
    assert shown
    assert not shown & of_host


def test_without_any_host_there_are_no_pictures(folders) -> None:
    folder = make_dataset(folders[0], patients=6)
    main([*KEEP, "-f", "0", "--max-synthetic", "1"])
    (case,) = read_manifest(folder)["cases"].values()
    take_out(folder, {case["host"]})
    assert report(["-d", "801"]) == 0
    assert "holds no synthetic case whose host is there, so there is nothing to show" in text_of(html())


def test_without_records_it_says_what_to_run(folders) -> None:
    make_dataset(folders[0])
    with pytest.raises(BadInput, match="difflung_augment -d 801 --method difflung"):
        report(["-d", "801"])


def test_several_methods_have_to_be_named(folders) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0"])
    assert report(["-d", "801"]) == 0, "there is only one"
    other = results_folder(NAME, "cbmat")
    other.mkdir()
    write_json(other / "augment_report.json", read_json(results_folder(NAME, "copy_paste") / "augment_report.json"))
    with pytest.raises(BadInput, match="cbmat, copy_paste"):
        report(["-d", "801"])


def test_a_report_that_cannot_be_written_spoils_nothing(folders, monkeypatch, capsys) -> None:
    make_dataset(folders[0])

    def fails(*args, **kwargs):
        raise RuntimeError("no pictures today")

    monkeypatch.setattr("nnunet_difflung.report.page.write_page", fails)
    assert main([*KEEP, "-f", "0"]) == 0
    assert "no report was written (RuntimeError: no pictures today); try 'difflung_report" in capsys.readouterr().err
    assert read_manifest(folders[0] / NAME)["cases"]


def test_many_cases_make_no_large_file(folders, monkeypatch) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0"])
    manifest = read_manifest(folders[0] / NAME)
    (identifier, case), *_ = manifest["cases"].items()
    many = {f"difflung_copy_paste_f0_1a2b3c4d_{n:04d}": case for n in range(2000)}
    records = read_records(open_raw_dataset("801"), "copy_paste")
    object.__setattr__(records, "manifest", {**manifest, "cases": many})
    from nnunet_difflung.pages.render import as_html

    page = augment_page(records, "2d", "cpu")
    assert len(as_html(page)) < 3e6
    assert len(page.pictures) < 100
    assert "<summary>2000 synthetic cases in the dataset</summary>" in as_html(page)


def test_the_paragraph_says_only_what_was_done(folders) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0"])
    page = text_of(html())
    assert "no network was trained" in page
    assert "no case was dropped for them" in page
    assert "sampler" not in page.split("For a manuscript")[-1].split("Settings")[0]


def manuscript() -> str:
    return text_of(html()).split("For a manuscript")[-1].split("Settings of the last run")[0]


def test_the_paragraph_says_it_if_folds_were_made_with_different_settings(folders) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0", "2"])
    assert "different settings" not in manuscript()
    assert "Not the same in all folds" not in lights()["Gate"][1]
    main([*COPY, "-f", "1", "--gate", "drop", "--placement", "uniform", "--seed", "7"])
    said = manuscript()
    for part in (
        "for 3 folds of an nnU-Net dataset",
        "The folds were made with different settings:",
        "gate report (folds 0 and 2) and drop (fold 1)",
        "placement real (folds 0 and 2) and uniform (fold 1)",
        "seed of balance 12345 (folds 0 and 2) and 7 (fold 1)",
        "For folds 0 and 2, outlines of real lesions of training patients were pasted at places and of sizes like",
        "For fold 1, outlines of real lesions of training patients were pasted at places drawn uniformly",
        "For folds 0 and 2, intensities were compared with those of real lesions, and no case was dropped",
        "For fold 1, cases whose intensities differ from real lesions by more than patients differ were dropped.",
        "For folds 0 and 2, seeds: generator 12345, masks 12345.",
        "For fold 1, seeds: generator 7, masks 7.",
    ):
        assert part in said, part
    assert said.count("no network was trained") == 1
    (last,) = [run for run in read_manifest(folders[0] / NAME)["runs"] if run["fold"] == 1]
    shares = "; ".join(f"{name} {share:.1%}" for name, share in last["summary"]["targets"].items())
    assert f"uniformly over normal lung, up to a target share of lung ({shares})." in said
    assert lights()["Gate"][1].endswith(
        "Not the same in all folds: --gate report in folds 0 and 2; --gate drop in fold 1."
    )


def test_the_gate_is_judged_in_each_run(folders) -> None:
    make_dataset(folders[0])
    main([*COPY, "-f", "0", "--gate", "off"])
    assert lights()["Gate"] == (
        "unknown",
        "It was off (--gate off): no painted lesion was compared with real ones.",
    )
    main([*KEEP, "-f", "1"])
    assert lights()["Gate"][1].endswith("--gate off in fold 0; --gate report in fold 1.")
    path = results_folder(NAME, "copy_paste") / "augment_report.json"
    content = read_json(path)
    for row in content["folds"]:
        for verdict in row["verdicts"].values():
            verdict["judged"] = True
    write_json(path, content)
    assert lights()["Gate"][0] == "unknown", "nothing is known of fold 0"
    main([*COPY, "-f", "2", "--gate", "off"])  # the last run says nothing about the others
    assert "--gate report in fold 1" in lights()["Gate"][1]
    assert "For fold 1, intensities were compared with those of real lesions" in manuscript()


def excluding(path: Path, *identifiers: str) -> list[str]:
    path.write_text("\n".join(["case", *identifiers]) + "\n")
    return ["--exclude", str(path)]


def test_excluded_cases_are_not_kept_and_the_others_are_the_same(folders, tmp_path, capsys) -> None:
    folder = make_dataset(folders[0])
    main([*KEEP, "-f", "0"])
    first = read_manifest(folder)["cases"]
    refused, *others = sorted(first)
    remove(["-d", "801"])
    options = [*KEEP, "-f", "0", *excluding(tmp_path / "exclude.csv", refused, "difflung_cbmat_f0_12345678_0000")]
    main(options)
    said = capsys.readouterr().out
    assert f"dropped {refused}: excluded by a reader (--exclude)" in said
    assert "--exclude names" not in said
    second = read_manifest(folder)
    assert sorted(second["cases"]) == others
    for identifier in others:
        assert second["cases"][identifier]["contents"] == first[identifier]["contents"]
    assert second["runs"][0]["settings"]["sampling"]["exclude"] == [refused]
    main(options)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(BadInput, match="exclude was"):
        main([*KEEP, "-f", "0"])


def test_cases_of_one_fold_are_excluded_with_the_command_for_all_folds(folders, tmp_path, capsys) -> None:
    folder = make_dataset(folders[0])
    main([*KEEP, "-f", "0", "1"])
    cases = read_manifest(folder)["cases"]
    refused = next(i for i in sorted(cases) if cases[i]["fold"] == 0)
    remove(["-d", "801", "-f", "0"])
    capsys.readouterr()
    options = [*KEEP, "-f", "0", "1", *excluding(tmp_path / "exclude.csv", refused)]
    for said in (f"dropped {refused}: excluded by a reader", "nothing to do"):
        main(options)
        captured = capsys.readouterr()
        assert said in captured.out
        assert "other settings" not in captured.err, "fold 1 is as it would be made now"
    assert set(read_manifest(folder)["cases"]) == set(cases) - {refused}
    with pytest.raises(BadInput, match="cases of method copy_paste for fold 0, made with other settings.*exclude was"):
        main([*KEEP, "-f", "0", "1"])


def test_an_excluded_case_that_is_none_is_said(folders, tmp_path, capsys) -> None:
    make_dataset(folders[0])
    main([*KEEP, "-f", "0", *excluding(tmp_path / "x.csv", "difflung_copy_paste_f0_00000000_0000")])
    assert "--exclude names 1 case that these folds do not have" in capsys.readouterr().out


@pytest.mark.parametrize("key", ["_e28bac54", "_f1234567", "_f0000000", "_12345678", ""])
@pytest.mark.parametrize("fold", ["0", "all"])
def test_a_case_is_excluded_whatever_its_key_looks_like(tmp_path, fold, key) -> None:
    names = {method: f"difflung_{method}_f{fold}{key}_0001" for method in METHODS}
    excluding(tmp_path / "x.csv", *names.values())
    for method, name in names.items():
        assert read_excluded(tmp_path / "x.csv", method) == (name,)
        assert len(unknown([name], [fold], [])) == 1


def test_excluding_all_cases_stops_nothing(folders, tmp_path) -> None:
    folder = make_dataset(folders[0])
    main([*KEEP, "-f", "0"])
    identifiers = sorted(read_manifest(folder)["cases"])
    remove(["-d", "801"])
    main([*KEEP, "-f", "0", *excluding(tmp_path / "all.csv", *identifiers)])
    assert read_manifest(folder)["cases"] == {}
    assert json.dumps(identifiers[0]) not in (folder / "splits_final.json").read_text()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("id\nx\n", "expected one called 'case'"),
        ("case\nlung_001\n", "not the id of a synthetic case"),
        ("case\n../x\n", "not the id of a synthetic case"),
        (None, r"cannot be read \(No such file or directory\)"),
    ],
)
def test_faulty_lists_are_refused_before_any_work(folders, tmp_path, content, said) -> None:
    make_dataset(folders[0])
    path = tmp_path / "list.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(BadInput, match=said):
        main([*KEEP, "-f", "0", "--exclude", str(path)])
    assert not results_folder(NAME, "copy_paste").exists()
