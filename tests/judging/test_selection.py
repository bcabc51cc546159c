"""Several paintings of a case, of which the fold's segmenter selects one."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from nnunet_difflung.commands.augment import main, parse, settings_from
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.config import preset
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.judging.selection import Selection, other_noise, recognised, score_of
from nnunet_difflung.painting import attempt as attempt_module
from nnunet_difflung.painting.jobs import Job, make_jobs
from nnunet_difflung.pipeline import estimates
from nnunet_difflung.pipeline import fold as fold_module
from nnunet_difflung.pipeline.estimates import estimate_bytes, estimate_seconds
from nnunet_difflung.preparing.application import apply_plan
from nnunet_difflung.preparing.fold import Fold
from nnunet_difflung.runtime.files import sha256, write_json
from nnunet_difflung.runtime.share import Share
from nnunet_difflung.segmenter.config import SegmenterConfig
from nnunet_difflung.segmenter.trained import Knowledge, Sight
from nnunet_difflung.telling.quality import faults
from nnunet_difflung.telling.selection import describe_selection
from tests.support.commands import OPTIONS, prepared
from tests.support.segmenters import small_segmenters
from tests.support.tiny import HU, make_dataset

RUN = ["-d", "801", "-f", "0", "--preset", "fast", "--gate", "report", "-device", "cpu", "-np", "1"]
MASKS = ["--max-synthetic", "6", "--target-share", "emphysema=0.4", "ILD=0.4"]
KNOWN = {name: Knowledge(4, 8, 0.7, 0.1, 0.3, 0.05, True) for name in ("emphysema", "ILD")}


@dataclass(frozen=True)
class Brightness:
    """Networks that take the share of the way from normal lung to the class as its probability."""

    knowledge: dict
    parts: tuple = (None,)
    hash: str = "h"
    seconds: float = 0.0

    def knows(self, name: str) -> bool:
        return self.knowledge[name].known

    def see(self, patient, image, regions, normal) -> dict[str, Sight]:
        assert patient.startswith("lung_")
        seen = {}
        for name, voxels in regions.items():
            if voxels.any():
                way = (image[0][voxels].mean() - HU["normal_lung"][0]) / (HU[name][0] - HU["normal_lung"][0])
                seen[name] = Sight(int(voxels.sum()), max(0.0, float(way)), 0.1)
        return seen


@dataclass
class Painter:
    """Paints each candidate at its own share of the way from normal lung to the class."""

    fold: Fold
    levels: list[float]

    def __call__(self, batch: list[Job], *_) -> list[np.ndarray]:
        seeds = {planned.index: planned for planned in self.fold.plan.cases}
        images = []
        for job in batch:
            (level,) = (
                level
                for candidate, level in enumerate(self.levels)
                if (job.inputs[0].seed // 16 - job.slices[0]) // 4099 == other_noise(seeds[job.index], candidate).seed
            )
            lung, emphysema, ild, _ = job.inputs[0].condition
            way = emphysema * (HU["emphysema"][0] + 850) + ild * (HU["ILD"][0] + 850)
            height, width = (part.stop - part.start for part in job.crop)
            images.append((np.where(lung + emphysema + ild > 0, -850, 40) + level * way)[None, None, :height, :width])
        return images


@pytest.fixture
def prepare(tmp_path, monkeypatch):
    """A fold whose generator and segmenter need no training; each candidate is painted at its own level."""
    make_dataset(prepared(tmp_path, monkeypatch)[0], patients=4)
    raw = open_raw_dataset("801")
    cache = build_cache(raw, tmp_path / "cache", progress=False)

    def prepared_fold(*options: str, levels: list[float] = [1.0] * 4, knowledge: dict = KNOWN) -> Fold:
        fold = fold_module.prepare_fold(raw, 0, settings_from(parse([*RUN, *MASKS, *options])), cache)
        write_json(fold.folder / "generator.json", {"format": 1, "weights_sha256": "w", "finished": True})
        monkeypatch.setattr(fold_module, "load_generator", lambda *_: fold_module._without_network(fold))
        monkeypatch.setattr(fold_module, "train_segmenters", lambda *_: None)
        monkeypatch.setattr(fold_module, "is_finished", lambda *_: True)
        monkeypatch.setattr(fold_module, "load_segmenters", lambda *_: Brightness(knowledge))
        monkeypatch.setattr(attempt_module, "paint_jobs", Painter(fold, levels))
        return fold

    return prepared_fold


def synthesized(fold: Fold, **options):
    return fold_module.synthesize_fold(fold, "cpu", progress=False, **options)[1]


def selections(result) -> list[dict]:
    return [case.record["selection"] for case in result.staged]


def files_of(result) -> dict[str, list[str]]:
    return {case.identifier: [sha256(file) for file in (*case.images, case.label)] for case in result.staged}


# ---- what is chosen ----


@pytest.mark.parametrize(("rule", "chosen"), [("hard", 2), ("easy", 1)])
def test_unrecognised_paintings_are_rejected_and_the_rule_chooses_among_the_others(prepare, rule, chosen):
    fold = prepare("--candidates", "4", "--selection", rule, levels=[0.0, 1.0, 0.5, 0.8])
    result = synthesized(fold)
    assert len(result.staged) == len(fold.plan.cases) > 1
    assert result.dropped == {}
    for case, row in zip(result.staged, selections(result), strict=True):
        assert row["candidates"] == 4
        assert row["chosen"] == chosen
        assert row["below_floor"] == [0]
        assert row["scores"] == pytest.approx([0, 1, 0.5, 0.8], abs=0.02)
        assert row["score"] == row["scores"][chosen]
        assert score_of(case.record) == row["score"]
        assert case.record["seed"] == fold.plan.cases[int(case.identifier[-4:])].seed
    summary, cases = result.selection, len(fold.plan.cases)
    assert (summary["painted"], summary["below_floor"], summary["chosen_from"]) == (4 * cases, cases, cases)
    assert summary["score_of_chosen"] == pytest.approx(1 if rule == "easy" else 0.5, abs=0.02)
    assert summary["score_of_all"] == pytest.approx(2.3 / 4, abs=0.02)
    said = "\n".join(describe_selection(summary))
    assert f"{4 * cases} candidates painted, {cases} not recognised" in said
    assert "recall of unseen real lesions 0.70, in normal lung 0.10 (8 slices, 4 patients); rejected below 0.30" in said
    assert "where 5% of the real ones lie" in said


def test_the_chosen_painting_is_what_the_file_holds_and_no_slice_of_the_others_is_left(prepare):
    fold = prepare("--candidates", "3", levels=[0.9, 0.4, 0.7])
    result = synthesized(fold)
    left = {path.parent.name for path in fold.work.rglob("*.npy")}
    assert left == {"try0_candidate1"}
    for case in result.staged:
        label, host = fold.raw.reader().read_seg(str(case.label))[0][0], fold.cache.label(case.record["host"])
        image = fold.raw.reader().read_images([str(file) for file in case.images])[0][0]
        for value, name in ((2, "emphysema"), (3, "ILD")):
            changed = (label == value) & (host != value)
            if changed.any():
                expected = 0.4 * (HU[name][0] + 850) - 850
                assert image[changed].mean() == pytest.approx(expected, abs=2)


def test_the_random_rule_takes_any_recognised_painting_and_the_same_one_each_time(prepare):
    fold = prepare("--candidates", "4", "--selection", "random", levels=[0.0, 1.0, 0.5, 0.8])
    first = synthesized(fold)
    assert {row["chosen"] for row in selections(first)} <= {1, 2, 3}
    assert len({row["chosen"] for row in selections(first)}) > 1
    expected = files_of(first)
    fold.work.rename(fold.work.with_name("first"))
    assert files_of(synthesized(fold)) == expected


def test_paintings_that_are_never_recognised_are_painted_again_and_dropped(prepare):
    fold = prepare("--candidates", "2", levels=[0.0, 0.1])
    result = synthesized(fold)
    assert result.staged == []
    assert len(result.dropped) == len(fold.plan.cases)
    assert result.repainted == 3 * len(fold.plan.cases)
    assert result.selection["below_floor"] == result.selection["painted"] == 8 * len(fold.plan.cases)
    for measured in result.dropped.values():
        assert not recognised(measured)
        assert "is not recognised by the segmenter (score 0.0" in faults(measured)
        assert measured["selection"]["chosen"] is None


def test_a_class_that_is_not_known_is_neither_rejected_nor_painted_more_than_once(prepare):
    unknown = {name: replace(row, known=False, recall=0.2) for name, row in KNOWN.items()}
    fold = prepare("--candidates", "4", levels=[0.0, 1.0, 1.0, 1.0], knowledge=unknown)
    result = synthesized(fold)
    assert len(result.staged) == len(fold.plan.cases)
    assert {(row["candidates"], row["chosen"], row["score"]) for row in selections(result)} == {(1, 0, None)}
    said = "\n".join(describe_selection(result.selection))
    assert said.count("does not know it well enough; no candidate is rejected or preferred") == 2
    one = KNOWN | {"ILD": unknown["ILD"]}
    fold = prepare("--candidates", "3", levels=[0.5, 0.7, 0.9], knowledge=one)
    for planned, row in zip(fold.plan.cases, selections(synthesized(fold)), strict=True):
        has_known = "emphysema" in {op.pathology for op in planned.operations}
        assert row["candidates"] == (3 if has_known else 1)
        assert row["score"] == (pytest.approx(0.5, abs=0.02) if has_known else None)


def test_a_placebo_is_painted_once_and_not_judged(prepare):
    fold = prepare("--candidates", "4")
    selection = Selection(Brightness(KNOWN), fold.segmenter_data.patients, fold.raw.roles, 4, "hard")
    planned = fold.plan.cases[0]
    placebo = replace(planned, placebo=True)
    assert (selection.number_for(planned), selection.number_for(placebo)) == (4, 1)
    applied = apply_plan(fold, planned, textures=False)
    assert selection.recognition(applied, applied.image)
    assert selection.recognition(replace(applied, planned=placebo), applied.image) == {}


# ---- noise, resumption, processes ----


def test_every_candidate_of_every_try_has_noise_of_its_own_and_the_first_has_the_cases(prepare):
    fold = prepare("--candidates", "3")
    planned, generator = fold.plan.cases[0], fold_module._without_network(fold)
    applied, sampling = apply_plan(fold, planned, textures=False), fold.settings.sampling
    noises = set()
    for attempt in range(2):
        for candidate in range(3):
            of_candidate = replace(applied, planned=other_noise(planned, candidate))
            job = make_jobs(of_candidate, generator, fold.raw.roles, sampling, attempt)[0]
            noises.add((job.inputs[0].noise.tobytes(), job.inputs[0].seed))
    assert len(noises) == 6
    assert len({noise for noise, _ in noises}) == 6
    assert other_noise(planned, 0) is planned


TOGETHER = ["--method", "difflung", "--placebo", "0.5", "--placement", "real"]


@pytest.mark.parametrize(
    ("after", "options"), [(1, []), (5, []), (9, []), (14, []), (5, TOGETHER), (13, TOGETHER), (20, TOGETHER)], ids=str
)
def test_killed_between_candidates_and_run_again_gives_the_same_files(prepare, monkeypatch, after, options):
    fold = prepare("--candidates", "3", *options, levels=[0.9, 0.4, 0.7])
    assert bool(fold.plan.placebos) == bool(options)
    whole = synthesized(fold)
    expected, rows = files_of(whole), [case.record for case in whole.staged]
    fold = prepare("--candidates", "3", *options, levels=[0.9, 0.4, 0.7])
    fold.work.rename(fold.work.with_name("done"))
    real, calls = attempt_module.write_json, []

    def killed(path, content):
        calls.append(path)
        if len(calls) > after:
            raise KeyboardInterrupt
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(attempt_module, "write_json", killed)
        with pytest.raises(KeyboardInterrupt):
            synthesized(fold)
    again = synthesized(fold)
    assert files_of(again) == expected
    assert [case.record for case in again.staged] == rows
    assert again.selection == whole.selection


class SideBySide(Share):
    """One of two processes; it fails, instead of waiting for ever, once the other one has failed."""

    failed = threading.Event()

    def wait_until(self, done) -> None:
        while not done():
            assert not self.failed.wait(0.05), "the other process failed"


@pytest.mark.parametrize("options", [[], TOGETHER], ids=str)
def test_two_processes_and_several_threads_choose_the_same(prepare, options):
    levels = [0.9, 0.4, 0.7]
    fold = prepare("--candidates", "3", *options, levels=levels)
    expected = files_of(synthesized(fold))
    fold.work.rename(fold.work.with_name("one"))
    assert files_of(synthesized(prepare("--candidates", "3", *options, levels=levels), threads=3)) == expected
    fold.work.rename(fold.work.with_name("threads"))

    def part(index: int):
        try:
            return synthesized(fold, share=SideBySide(index, 2, "now"))
        except BaseException:
            SideBySide.failed.set()
            raise

    SideBySide.failed.clear()
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(part, (0, 1)))
    assert [files_of(result) for result in results] == [expected, expected]


# ---- one painting is as before; options; estimates ----


def test_one_painting_leaves_no_trace_of_selection(prepare):
    fold, same = prepare(), prepare("--candidates", "1")
    assert fold.key == same.key
    assert fold.settings.identity() == same.settings.identity()
    assert "candidates" not in fold.settings.identity()["sampling"]
    result = synthesized(fold)
    assert {path.parent.name for path in fold.work.rglob("*.npy")} == {"try0"}
    assert result.selection == {}
    for case in result.staged:
        assert not {"selection", "recognition"} & set(case.record)
    others = [prepare("--candidates", "2"), prepare("--candidates", "2", "--selection", "easy")]
    assert len({fold.key, *(other.key for other in others)}) == 3


def test_the_ids_depend_on_who_the_patients_are_with_candidates_alone(prepare):
    for options, same in ((["--candidates", "2"], False), ([], True)):
        fold = prepare(*options)
        merged = {i: "one" if p in ("lung_002", "lung_003") else p for i, p in fold.raw.patients.items()}
        other = replace(fold, raw=replace(fold.raw, reading=replace(fold.raw.reading, patients=merged)))
        assert (other.key == fold.key) == same


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "copy_paste", "--candidates", "4"], "copy_paste paints a case alike each time"),
        (["--selection", "easy"], "--selection easy needs several paintings"),
    ],
)
def test_options_without_a_choice_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        settings_from(parse(["-d", "801", *options]))


def test_no_candidate_at_all_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(["-d", "801", "--candidates", "0"])
    assert ended.value.code == 2
    assert "--candidates" in capsys.readouterr().err
    assert preset("default").sampling.candidates == 1


def test_candidates_and_their_segmenter_are_part_of_the_estimates(prepare, monkeypatch):
    monkeypatch.setattr(estimates, "seconds_of_training", lambda *_: 1000.0)
    monkeypatch.setattr(
        estimates.family_of(prepare().method).__class__, "seconds_per_image", lambda *_: (0.0, 1.0), raising=True
    )

    def estimate(fold):
        return estimate_seconds(fold, "cpu", fold.cache.label)

    one, four = prepare(), prepare("--candidates", "4")
    (training, painting), (training_of_four, painting_of_four) = (estimate(f) for f in (one, four))
    assert (training, training_of_four) == (0, 1000)
    assert painting_of_four == 4 * painting > 0
    (cases, results), (same, results_of_four) = estimate_bytes(one), estimate_bytes(four)
    assert cases == same
    assert results_of_four - cases == 4 * 4 * (results - cases), "each is repainted up to three times"
    with_placebo = prepare("--candidates", "4", "--placebo", "0.5")
    once = estimate(prepare("--placebo", "0.5"))[1] - painting
    assert once > 0
    assert estimate(with_placebo)[1] == pytest.approx(painting_of_four + once)
    assert once > 0


# ---- the real command ----


def test_a_command_selects_resumes_reports_and_can_be_undone(tmp_path, monkeypatch, capsys):
    folders = prepared(tmp_path, monkeypatch)
    folder = make_dataset(folders[0], patients=4, folds=4)
    small_segmenters(monkeypatch, steps=3, least_recall=-1.0, floor_percentile=0.0)
    options = [*OPTIONS, "-f", "0", "--method", "cbmat", "--candidates", "2"]
    real = attempt_module.Attempt.paint

    def killed(self, batch):
        if self.candidate == 1:
            raise KeyboardInterrupt
        real(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(attempt_module.Attempt, "paint", killed)
        with pytest.raises(KeyboardInterrupt):
            main(options)
    capsys.readouterr()
    main(options)
    said = capsys.readouterr().out
    assert "Selection took" in said
    assert "rejected below" in said
    run = read_manifest(folder)["runs"][0]["summary"]["selection"]
    for case in read_manifest(folder)["cases"].values():
        assert case["selection"]["candidates"] == 2
        assert set(case["recognition"]) <= {"emphysema", "ILD"}
    results = folders[2] / folder.name / "DiffLung__cbmat"
    (row,) = json.loads((results / "augment_report.json").read_text())["folds"]
    assert row["selection"] == run
    assert {"segmenter", "scoring"} <= set(row["seconds_of_all_folds_together"])
    own = results / "fold_0" / "segmenter"
    assert sorted(path.name for path in own.iterdir()) == [
        "part_0.safetensors",
        "part_1.safetensors",
        "part_2.safetensors",
        "segmenter.json",
    ]
    remove(["-d", "801"])
    small_segmenters(monkeypatch, steps=4)
    with pytest.raises(BadInput, match="segmenter with other settings.*delete that folder"):
        main([*options, "--dry-run"])
    remove(["-d", "801", "--generators"])
    assert not own.exists()
    assert not results.exists()


def test_the_usual_segmenter_has_the_seed_of_the_run(prepare):
    assert prepare("--seed", "7", "--candidates", "2").segmenter_config == SegmenterConfig(seed=7)
    assert Path(prepare().segmenter_folder).parent == prepare().folder
