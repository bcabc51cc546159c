"""The page of Table 1: figures beside their floor, verdicts that follow from them, and pictures of what was painted."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnunet_difflung.commands.evaluate import main
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.evaluation import gathered as gathering
from nnunet_difflung.evaluation.gathered import REAL, Gathered, Shown, gathered_slices
from nnunet_difflung.evaluation.page import evaluation_page
from nnunet_difflung.evaluation.page_text import methods_paragraph
from nnunet_difflung.evaluation.real_slices import RealSlice, slices_with_lung
from nnunet_difflung.evaluation.sheet import Sheet
from nnunet_difflung.evaluation.verdicts import verdicts
from nnunet_difflung.generator.training import FoldData, train_generator
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.methods import METHODS
from nnunet_difflung.pages.render import as_html
from nnunet_difflung.paths import cache_folder, results_folder
from tests.support.browser import in_browser
from tests.support.generators import TINY
from tests.support.modes import mode, set_modes
from tests.support.tiny import LABELS, make_dataset

ODD = 'emphysema "severe" <b>&amp; 肺 $x$'
ROLES = LabelRoles(("normal_lung",), ("emphysema",), (), {"normal_lung": 1, "emphysema": 2}, 9)
QUICK = ["-d", "801", "-f", "0", "--preset", "fast", "--steps", "3", "--samples", "2", "-device", "cpu"]


def train(folder: Path, **options):
    """A dataset with an oddly named class, and generators of cbmat and none in fold 0."""
    made = make_dataset(folder, **options)
    content = json.loads((made / "dataset.json").read_text())
    content["labels"] = {ODD if name == "emphysema" else name: value for name, value in LABELS.items()}
    (made / "dataset.json").write_text(json.dumps(content))
    raw = open_raw_dataset("801")
    cache = build_cache(raw, cache_folder(raw.name), progress=False)
    data = FoldData(cache, tuple(raw.channels), raw.name, 0, tuple(raw.training_cases(0)))
    for method in ("cbmat", "none"):
        train_generator(
            data, METHODS[method], replace(TINY, epochs=1), results_folder(raw.name, method) / "fold_0", progress=False
        )
    return raw


@pytest.fixture
def trained(raw_folder):
    return train(raw_folder, patients=6, folds=3, size=(30, 34))


def page_of(raw) -> Path:
    return results_folder(raw.name, "evaluate") / "table1.html"


def test_page_shows_figures_with_their_floor_and_what_was_painted(trained, raw_folder, tmp_path):
    set_modes(raw_folder / trained.name, 0o600, 0o700)
    main(QUICK)
    page = page_of(trained)
    script = """
    const count = (selector) => document.querySelectorAll(selector).length;
    const captions = [...document.querySelectorAll('figcaption')].map((e) => e.textContent.trim());
    const floors = [...document.querySelectorAll('th')].filter((e) => e.textContent.includes('other patients')).length;
    return [count('.chart svg'), captions, floors, document.body.innerText];"""
    (charts, captions, floors, text), said = in_browser(page, script)
    assert said == []
    assert charts == 3
    assert floors == 3 * 3
    assert captions.count("real") == captions.count("cbmat, sample 2") == captions.count("none, sample 1") >= 2
    assert ODD in text
    table = json.loads(page.with_suffix(".json").read_text())
    html = page.read_text()
    for source in ("cbmat", "real_other_patients"):
        value = table[source]["wasserstein"][ODD]
        assert f'data-value="{value["mean"]}">{value["mean"]:.1f} ± {value["sd"]:.1f}</td>' in html
    assert str(tmp_path) not in html
    assert "difflung_compare -d 801 -f 0 1 2    # after" in html
    assert "lung window, -1350 to 150 HU" in html
    assert mode(page) == 0o600
    assert page.stat().st_size < 2e6


def test_volumes_have_a_table_from_slice_to_slice(raw_folder):
    raw = train(raw_folder, patients=4, folds=2, size=(30, 34), volumes=True, depth=4)
    main([*QUICK, "--methods", "none", "--samples", "1"])
    html = page_of(raw).read_text()
    assert "From slice to slice" in html
    assert "correlation of neighbours" in html
    assert ", slice " in html
    for name in ("emphysema", "ILD"):
        assert re.search(rf"{name}[^<]*, coronal and sagittal</", html)
    assert ", coronal</" in html
    assert ", sagittal</" in html


@pytest.fixture
def table(trained, tmp_path) -> dict:
    main([*QUICK, "--methods", "cbmat", "-o", str(tmp_path / "t.json")])
    return json.loads((tmp_path / "t.json").read_text())


def test_a_sheet_of_an_earlier_run_does_not_stay_beside_a_table_without_one(trained, tmp_path, monkeypatch):
    out = tmp_path / "t.json"
    out.with_suffix(".png").write_bytes(b"earlier")
    monkeypatch.setattr(Sheet, "offer", lambda *_: None)
    main([*QUICK, "--methods", "cbmat", "--samples", "1", "-o", str(out)])
    assert sorted(path.suffix for path in tmp_path.glob("t.*")) == [".html", ".json", ".md"]


def state(table: dict, title: str, names=("ILD",)) -> str:
    return next(light.state for light in verdicts(table, names).lights if light.title == title)


def test_lights_follow_the_distance_to_the_floor(table):
    changed = copy.deepcopy(table)
    for times, expected in ((1.2, "good"), (2.0, "look"), (5.0, "bad")):
        for source, value in (("cbmat", 10.0 * times), ("real_other_patients", 10.0)):
            changed[source]["wasserstein"]["ILD"]["mean"] = value
        assert state(changed, "Intensities by cbmat") == expected
    changed["cbmat"]["wasserstein"] = {}
    assert state(changed, "Intensities by cbmat") == "unknown"
    for sd, distance, expected in ((1.0, 0.01, "good"), (0.5, 0.01, "look"), (1.0, 0.5, "look")):
        changed["cbmat"]["sd_ratio"]["ILD"] = {"mean": sd}
        for source, value in (("cbmat", distance), ("real_other_patients", 0.0)):
            changed[source]["texture"]["ILD"] = {"mean": value}
        assert state(changed, "Texture by cbmat") == expected
    for share, expected in ((0.9, "good"), (0.1, "look"), (4.0, "look")):
        changed["cbmat"]["diversity"]["ILD"]["mean"] = share * changed["meta"]["real_sd"]["ILD"]
        assert state(changed, "Diversity by cbmat") == expected
    assert state(changed, "Patients") == "look"
    changed["meta"]["patients"] = 5
    assert state(changed, "Patients") == "good"


def test_methods_say_what_was_painted_and_how_it_was_compared(table):
    text = methods_paragraph(table)
    for part in (METHODS["cbmat"].explanation, "2 patients, fold 0", "painted 2 times", "[-1000, 1000] HU", "3 steps"):
        assert part in text


def test_histograms_count_real_voxels_once_and_all_samples():
    condition = np.zeros((6, 6), np.uint8)
    condition[1:4, 1:4] = 2
    true = RealSlice("p", "case", 0, np.full((6, 6), -905.0, np.float32), condition)
    gathered = Gathered(ROLES, (-1000.0, 1000.0), {("case", 0): Shown(("emphysema",))})
    for method in ("cbmat", "none"):
        gathered.offer(true, method, np.full((3, 6, 6), -800.0, np.float32))
    counts = gathered.counts["emphysema"]
    assert {name: int(of.sum()) for name, of in counts.items()} == {REAL: 9, "cbmat": 27, "none": 27}
    place = int(counts[REAL].argmax())
    assert gathered.bins[place] <= -905 <= gathered.bins[place + 1]
    assert len(gathered.shown["case", 0].painted["none"]) == gathering.SAMPLES
    assert gathered.counts["normal_lung"] == {}


def test_shown_slices_are_of_different_patients_and_limited(trained, monkeypatch):
    cache = build_cache(trained, cache_folder(trained.name), progress=False)
    places = slices_with_lung(cache, sorted(trained.cases))
    shown = gathered_slices(cache, places, trained.patients, 2)
    for name in (ODD, "ILD"):
        of = [trained.patients[case] for (case, _), what in shown.items() if name in what.names]
        assert len(of) == len(set(of)) == gathering.PER_CLASS
    most = max(cache.facts[case].counts["ILD"][z] for case, z in places)
    assert most in [cache.facts[case].counts["ILD"][z] for (case, z), what in shown.items() if "ILD" in what.names]
    monkeypatch.setattr(gathering, "MOST_PICTURES", 10)
    assert len(gathered_slices(cache, places, trained.patients, 2)) <= 2


def test_largest_page_stays_small(trained, table):
    """As many pictures as there may be, of slices of 512 pixels with noise, which PNG cannot compress."""
    rng = np.random.default_rng(0)
    condition = np.full((512, 512), 1, np.uint8)
    case = trained.validation_cases(0)[0]
    shown = {}
    for z in range(gathering.MOST_PICTURES // 3):
        image = rng.uniform(-1000, 0, (512, 512)).astype(np.float32)
        shown[case, z] = Shown(("ILD",), image, condition, {"cbmat": np.stack([image, image])})
    gathered = Gathered(trained.roles, (-1000.0, 1000.0), shown)
    assert len(as_html(evaluation_page(table, gathered, trained, Sheet(trained.roles, [])))) < 15e6
