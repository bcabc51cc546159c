"""The page of a conversion: figures of the report, pictures, patients left out with reasons, and no folder."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from nnunet_difflung.dataset_conversion.case import Case
from nnunet_difflung.dataset_conversion.notes import DOUBT, Kind, Note
from nnunet_difflung.dataset_conversion.output.page import conversion_page
from nnunet_difflung.dataset_conversion.output.report import MOST_TILES, report_of_dataset
from nnunet_difflung.dataset_conversion.output.sheet import Tile
from nnunet_difflung.dataset_conversion.output.verdicts import verdicts
from nnunet_difflung.dataset_conversion.output.writer import write_case
from nnunet_difflung.dataset_conversion.pipeline.leaving_out import LeftOut, reasons_for_readers
from nnunet_difflung.pages.render import as_html
from tests.dataset_conversion.test_convert import converted
from tests.support.archives import chest, write_volumes
from tests.support.browser import in_browser

ODD = 'emphysema <b>"severe" & 肺 $x$'
LABELS = {"background": 0, "normal_lung": 1, ODD: 2, "ILD": 3}


@pytest.fixture
def report(tmp_path: Path) -> dict:
    """Three patients with two slices each, the third of them a test patient, the first with lungs in doubt."""
    records = []
    folder = tmp_path / ".Dataset810_Mine.partial"
    for number in (1, 2, 3):
        image, label = chest(number, 2, emphysema=number != 2)
        for z in range(2):
            case = Case(
                f"p{number}_s{z:03d}", f"p{number}", image[z : z + 1], label[z : z + 1], (4.0, 4.0, 8.0), (0, 0, z)
            )
            records.append(write_case(folder, case, len(LABELS), test=number == 3))
    notes = {
        "p1": [Note("left lung of 0.4 l", Kind.GUESSED, 1, DOUBT + "small lungs"), Note("a remark")],
        "p2": [Note("label 7 of /archive/p2.nii.gz", Kind.DROPPED, 3, "structures that the mapping leaves out")],
        " p9": [Note("p9 was left out", Kind.DROPPED, what="patients that cannot be converted, left out")],
    }
    left_out = [("p9", "ct/p9.nii.gz cannot be read")]
    return report_of_dataset(folder, records, LABELS, "CT", derived=["normal_lung"], notes=notes, left_out=left_out)


@pytest.fixture
def page(report, tmp_path: Path) -> Path:
    return tmp_path / ".Dataset810_Mine.partial" / "conversion_report.html"


def lights(report: dict) -> dict[str, tuple[str, str]]:
    return {light.title: (light.state, light.text) for light in verdicts(report).lights}


def test_page_opens_with_figures_pictures_and_reasons(page, report):
    script = """
    const texts = (selector) => [...document.querySelectorAll(selector)].map((e) => e.textContent.trim());
    return [texts('figcaption'), texts('h4'), texts('td'), document.body.innerText,
            document.querySelectorAll('path.dashed').length];"""
    (captions, groups, cells, text, dashed), said = in_browser(page, script)
    assert said == []
    assert [caption[:2] for caption in captions if re.match(r"p\d_", caption)] == ["p1", "p2", "p3"]
    assert groups == ["lungs in doubt", "others"]
    assert "Dataset810_Mine" in text
    for expected in (
        "p9",
        "ct/p9.nii.gz cannot be read",
        "structures that the mapping leaves out",
        ODD,
        "left lung of 0.4 l",
    ):
        assert expected in cells
    row = report["classes"][ODD]
    labelled = sum(report["classes"][name]["voxels"] for name in LABELS if name != "background")
    assert f"{row['voxels'] / labelled:.3%}" in cells
    assert f"{row['share']:.3%}" in cells
    assert dashed == 3, "derived lungs"
    assert "/archive" not in page.read_text(), "notes may name files"


def test_the_same_conversion_writes_the_same_page(tmp_path, raw_folder, unverified):
    write_volumes(tmp_path / "archive", 3)
    folder = converted(tmp_path, "values")
    first = (folder / "conversion_report.html").read_bytes()
    assert b"Dataset810_Mine" in first
    assert str(tmp_path).encode() not in first
    assert (converted(tmp_path, "values", "--overwrite", "-np", "2") / "conversion_report.html").read_bytes() == first


def test_patients_that_were_left_out_are_named_without_the_archives_folder(tmp_path, raw_folder, unverified):
    write_volumes(tmp_path / "archive", 3)
    (tmp_path / "archive" / "ct" / "p2.nii.gz").write_bytes(b"no image")
    folder = converted(tmp_path, "values", "--skip-faulty")
    html = (folder / "conversion_report.html").read_text()
    assert re.search(r"<td>p2</td><td>[^<]*ct/p2.nii.gz", html)
    assert str(tmp_path) not in html
    faults = (LeftOut("p2", f"{tmp_path}/archive/ct/p2.nii.gz cannot be read ({tmp_path}/archive)"), LeftOut("p3"))
    assert reasons_for_readers(faults, False, tmp_path / "archive") == [
        ("p2", "ct/p2.nii.gz cannot be read (archive)"),
        ("p3", "--exclude"),
    ]
    assert reasons_for_readers(faults, True, tmp_path) == [("–", "cannot be converted"), ("–", "--exclude")]


def test_lights_follow_the_report(report):
    assert lights(report)["Classes"] == ("look", lights(report)["Classes"][1])
    assert ODD in lights(report)["Classes"][1], "one training patient has it"
    assert lights(report)["Derived labels"] == (
        "look",
        "normal_lung: derived from the images, not drawn; in doubt in 1 patient: p1",
    )
    assert lights(report)["Intensities"][0] == "good"
    assert lights(report)["Patients left out"][1].startswith("1;")
    changed = json.loads(json.dumps(report))
    changed["patients"]["p1"]["voxels"][ODD] = 0
    assert lights(changed)["Classes"][0] == "bad"
    changed["patients"]["p2"]["intensity"][0] = 0
    assert lights(changed)["Intensities"][0] == "look"
    changed |= {"changes": {}, "derived": []}
    assert lights(changed)["Changes"][0] == "good"
    assert "Derived labels" not in lights(changed)


def test_page_of_many_patients_and_large_slices_stays_small(report):
    """2,000 patients, and as many pictures as there may be, of noise, which PNG cannot compress."""
    rng = np.random.default_rng(0)
    many = {f"patient_{i:04d}": report["patients"]["p1"] for i in range(2000)}
    label = np.ones((512, 512), np.uint8)
    tiles = [
        Tile(f"t{i}", False, rng.uniform(-1000, 200, (512, 512)).astype(np.float32), label, (0.7, 0.7))
        for i in range(MOST_TILES)
    ]
    histograms = {name: np.ones(60) for name in LABELS}
    left_out = [(f"p{i}", "cannot be read " * 10) for i in range(3000)]
    large = conversion_page("D", report | {"patients": many}, tiles, histograms, np.linspace(0, 1, 61), left_out)
    html = as_html(large)
    assert len(html) < 15e6
    assert "and 1000 more" in html
    assert "and 2000 more" in html
    assert f"{MOST_TILES} of 2000 patients" in html
