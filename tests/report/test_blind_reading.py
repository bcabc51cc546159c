"""The blind reading shows as many real as painted lesions, gives nothing away, and is scored right."""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnunet_difflung.commands.augment import main as augment
from nnunet_difflung.commands.turing import main
from nnunet_difflung.dataset.orientation import axial_view
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.pages import render
from nnunet_difflung.pages.blocks import Picture
from nnunet_difflung.report import blind_reading
from nnunet_difflung.report.blind_reading import (
    ANSWERS,
    Shown,
    _Look,
    _matched,
    _painted,
    _real,
    _shown,
    make_reading,
    new_token,
    read_answers,
    read_key,
    score,
)
from nnunet_difflung.report.injected import InjectedCase, Scan, cases_of
from nnunet_difflung.report.lesion_pictures import Looks
from nnunet_difflung.runtime.files import read_json, write_json
from tests.support.browser import in_browser
from tests.support.commands import ONE_FOLD_FAST
from tests.support.modes import mode, set_modes
from tests.support.tiny import make_dataset, write_array

COPY = ["-d", "801", "-f", "0", "--method", "copy_paste", "-device", "cpu", "--gate", "report"]


@pytest.fixture
def reading(folders, fingerprint, tmp_path: Path) -> Path:
    make_dataset(folders[0], patients=8, slices=2)
    augment([*COPY, "--max-synthetic", "8"])
    out = tmp_path / "reading"
    assert main(["-d", "801", "-o", str(out), "--number", "5"]) == 0
    return out


def test_half_are_painted_and_nothing_says_which(reading: Path) -> None:
    key = read_json(reading / "key.json")["pictures"]
    painted = [row for row in key.values() if row["painted"]]
    assert len(painted) == len(key) - len(painted) > 0
    page = (reading / "reading.html").read_text()
    for row in key.values():
        assert row["case"] not in page
    assert "before" not in re.findall(r"<option>(.*?)</option>", page)
    assert "difflung_" not in page
    words = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    assert "key.json" not in words
    assert "copy_paste" not in words


def test_real_lesions_are_not_from_hosts_of_shown_ones(reading: Path, folders) -> None:
    key, manifest = read_json(reading / "key.json")["pictures"], read_manifest(folders[0] / "Dataset801_Tiny")
    hosts = {manifest["cases"][row["case"]]["host"] for row in key.values() if row["painted"]}
    real = [row for row in key.values() if not row["painted"]]
    assert real
    assert hosts.isdisjoint(row["case"] for row in real), "not of another class either"
    assert len({(row["case"], row["class"]) for row in key.values()}) == len(key), "no lesion twice"


@pytest.mark.parametrize(("patients", "slices"), [(6, 3), (8, 2)])
def test_a_real_lesion_is_of_another_patient_than_hosts_and_donors_where_there_is_one(
    folders, fingerprint, patients, slices
) -> None:
    """A painted lesion has its host's anatomy and the outline of its donor's, which would be seen twice."""
    make_dataset(folders[0], patients=patients, slices=slices)
    augment([*COPY, "--max-synthetic", "8"])
    raw = open_raw_dataset("801")
    manifest = read_manifest(raw.folder)
    for seed in range(20):
        painted, real = sorted(
            make_reading(raw, manifest, "copy_paste", 1, seed), key=lambda lesion: not lesion.painted
        )
        record = manifest["cases"][painted.case]
        donors = {operation["donor"] for operation in record["operations"]}
        assert donors
        assert raw.patients[real.case] not in {raw.patients[case] for case in {record["host"], *donors}}


def test_donors_are_shown_last_and_only_if_others_are_too_few(folders) -> None:
    make_dataset(folders[0], patients=6, slices=2)
    raw = open_raw_dataset("801")
    look, rng = _Look(raw, Looks({"w": (-1000.0, 0.0)}, {})), np.random.default_rng(0)
    cases = sorted(raw.cases)
    donors, left = {case for case in cases if case.endswith("_s00")}, "lung_006_s00"

    def chosen(made_from: set[str], number: int) -> list[str]:
        return [lesion.case for lesion in _real(raw, (), made_from, "ILD", number, look, rng)]

    assert set(chosen(donors - {left}, 2)) == {left, "lung_006_s01"}, "the only patient who is no donor"
    assert chosen(donors - {left}, 1)[0].startswith("lung_006")
    further = chosen(donors, 6)
    assert len(further) == 6
    assert donors.isdisjoint(further), "other slices of the donors, before those with the lesion itself"
    assert len(chosen(set(cases), 3)) == 3, "rather donors than no reading"


def test_no_host_of_one_class_is_shown_as_real_for_another(folders, fingerprint) -> None:
    """Whatever the seed: it is not enough that each class leaves out the hosts of its own lesions."""
    make_dataset(folders[0], patients=6, slices=2)
    augment([*COPY, "--max-synthetic", "8", "--target-share", "emphysema=0.1", "ILD=0.2"])
    raw = open_raw_dataset("801")
    manifest = read_manifest(raw.folder)
    orders = set()
    for seed in range(20):
        lesions = make_reading(raw, manifest, "copy_paste", 2, seed)
        orders.add(tuple(lesion.painted for lesion in lesions))
        hosts = {manifest["cases"][lesion.case]["host"] for lesion in lesions if lesion.painted}
        assert hosts.isdisjoint(lesion.case for lesion in lesions if not lesion.painted)
    assert len(orders) > 2, "painted and real ones in random order"


def test_a_synthetic_case_that_broke_off_is_named(folders, fingerprint) -> None:
    make_dataset(folders[0], patients=6)
    augment([*COPY, "--max-synthetic", "4"])
    raw = open_raw_dataset("801")
    manifest = read_manifest(raw.folder)
    for record in manifest["cases"].values():
        image = next(raw.folder / name for name in record["files"] if "imagesTr" in name)
        image.write_bytes(image.read_bytes()[:-20])
    with pytest.raises(BadInput, match=r"difflung_copy.*is damaged .*replace or repair the file"):
        make_reading(raw, manifest, "copy_paste", 2, 0)


def test_few_volumes_leave_real_ones_to_show(folders, fingerprint) -> None:
    """All volumes are hosts; if lesions of all of them were shown, no real lesion could be."""
    make_dataset(folders[0], patients=6, volumes=True, depth=8)
    augment([*COPY, "--max-synthetic", "60"])
    raw = open_raw_dataset("801")
    manifest = read_manifest(raw.folder)
    assert len({case["host"] for case in manifest["cases"].values()}) > 3
    for seed in range(5):
        few, many = (make_reading(raw, manifest, "copy_paste", number, seed) for number in (2, 24))
        assert len(many) >= len(few) > 0
        assert len({manifest["cases"][lesion.case]["host"] for lesion in many if lesion.painted}) <= 3


def test_painted_lesions_are_spread_over_hosts_and_patients(folders, fingerprint, monkeypatch) -> None:
    monkeypatch.setattr("nnunet_difflung.report.blind_reading._touches", lambda lesion, others: False)
    make_dataset(folders[0], patients=8, slices=3)
    augment([*COPY, "--max-synthetic", "16", "--target-share", "emphysema=0.3", "ILD=0"])
    raw = open_raw_dataset("801")
    manifest = read_manifest(raw.folder)
    hosts = [case["host"] for case in manifest["cases"].values()]
    patients = {raw.patients[host] for host in hosts}
    assert len(hosts) > len(patients) > 2
    for seed in range(5):
        lesions = make_reading(raw, manifest, "copy_paste", len(patients), seed)
        shown = [manifest["cases"][lesion.case]["host"] for lesion in lesions if lesion.painted]
        assert len({raw.patients[host] for host in shown}) == len(shown) > 2


def test_same_seed_is_the_same_reading_and_another_is_not(reading: Path, tmp_path: Path) -> None:
    main(["-d", "801", "-o", str(tmp_path / "again"), "--number", "5"])
    main(["-d", "801", "-o", str(tmp_path / "other"), "--number", "5", "--seed", "1"])
    same, again, other = (
        list(read_json(folder / "key.json")["pictures"].values())
        for folder in (reading, tmp_path / "again", tmp_path / "other")
    )
    assert again == same
    assert other != same


def test_answers_of_another_reading_are_refused_even_if_it_has_as_many_pictures(reading: Path, tmp_path: Path) -> None:
    """With the wrong key, a reader who knows every painted lesion would be right half of the time."""
    main(["-d", "801", "-o", str(tmp_path / "other"), "--number", "5"])
    key = read_json(reading / "key.json")["pictures"]
    answers = tmp_path / "answers.csv"
    right = (f"{picture},{ANSWERS[3 if row['painted'] else 0]}\n" for picture, row in key.items())
    answers.write_text("picture,answer\n" + "".join(right))
    with pytest.raises(BadInput, match="belongs to another reading; give with -o the folder of the key"):
        main(["--score", str(answers), "-o", str(tmp_path / "other")])
    assert main(["--score", str(answers), "-o", str(reading)]) == 0
    assert read_json(reading / "score.json")["readers"]["answers"]["all"]["accuracy"] == 1.0


def test_a_key_without_a_token_stays_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "key.json", {"format": 1, "pictures": KEY})
    assert read_key(tmp_path / "key.json") == KEY


def test_no_token_looks_like_a_number_a_date_or_a_word() -> None:
    tokens = {new_token() for _ in range(200)}
    assert len(tokens) == 200
    assert all(re.fullmatch("[a-z]{6}", token) and not set(token) & set("aeiouy") for token in tokens)


def test_a_key_is_never_overwritten(reading: Path) -> None:
    before = (reading / "key.json").read_bytes()
    with pytest.raises(BadInput, match="already holds a reading"):
        main(["-d", "801", "-o", str(reading)])
    assert (reading / "key.json").read_bytes() == before


def test_an_interrupted_reading_is_made_again_and_is_as_private_as_the_dataset(
    reading: Path, folders, tmp_path: Path, monkeypatch
) -> None:
    def interrupted(*_) -> None:
        raise KeyboardInterrupt

    set_modes(folders[0] / "Dataset801_Tiny", 0o600, 0o700)
    out = tmp_path / "private"
    with monkeypatch.context() as patched:
        patched.setattr(render, "write_page", interrupted)
        with pytest.raises(KeyboardInterrupt):
            main(["-d", "801", "-o", str(out), "--number", "1"])
    assert main(["-d", "801", "-o", str(out), "--number", "1"]) == 0
    assert {path.name: mode(path) for path in out.iterdir()} == {"reading.html": 0o600, "key.json": 0o600}


def test_answers_of_a_browser_are_scored(reading: Path, capsys) -> None:
    """A reader who answers 'surely painted' to every picture finds all painted and no real ones."""
    script = """
    let saved; URL.createObjectURL = (blob) => { saved = blob; return '#'; };
    const pictures = new Set([...document.querySelectorAll('.answer')].map((radio) => radio.name));
    for (const name of pictures) document.querySelector(`.answer[name="${name}"][value="surely painted"]`).click();
    document.querySelector('#save-answers').click();
    return [await saved.text(), document.querySelector('#answered').textContent,
            getComputedStyle(document.querySelector('.outlines')).display];"""
    (text, said, outlines), console = in_browser(reading / "reading.html", script)
    key = read_json(reading / "key.json")["pictures"]
    assert said == f"{len(key)} of {len(key)} pictures have an answer."
    assert outlines == "none", "outlines are hidden until someone asks for them"
    assert console == []
    answers = reading / "reader.csv"
    answers.write_text(text)
    assert main(["--score", str(answers), "-o", str(reading)]) == 0
    row = read_json(reading / "score.json")["readers"]["reader"]["all"]
    assert row["accuracy"] == 0.5
    assert (row["painted_found"], row["real_found"]) == (len(key) // 2, 0)
    assert row["auc"] == 0.5
    assert "0.50 [" in capsys.readouterr().out


KEY = {str(n): {"painted": n % 2 == 0, "class": "a" if n <= 20 else "b"} for n in range(1, 41)}


def test_a_perfect_reader() -> None:
    table = score({p: 3 if row["painted"] else 0 for p, row in KEY.items()}, KEY)
    assert set(table) == {"all", "a", "b"}
    row = table["all"]
    assert (row["accuracy"], row["auc"], row["high"]) == (1.0, 1.0, 1.0)
    assert row["low"] == pytest.approx(0.025 ** (1 / 40))


def test_a_class_called_all_does_not_replace_the_total() -> None:
    key = {p: {**row, "class": "all"} if row["class"] == "a" else row for p, row in KEY.items()}
    table = score(dict.fromkeys(key, 3), key)
    assert {name: row["pictures"] for name, row in table.items()} == {"all": 40, "all (class)": 20, "b": 20}


def test_degrees_of_certainty_count_in_the_auc_alone() -> None:
    sure = {p: 3 if row["painted"] else 0 for p, row in KEY.items()}
    unsure = {p: 2 if row["painted"] else 1 for p, row in KEY.items()}
    assert score(sure, KEY)["all"] == score(unsure, KEY)["all"]
    mixed = {p: (3 if int(p) % 4 else 1) if row["painted"] else 0 for p, row in KEY.items()}
    row = score(mixed, KEY)["all"]
    assert row["accuracy"] == 0.75
    assert row["auc"] == 1.0
    assert row["painted_found"] == 10


def test_intervals_hold_guessing_as_often_as_they_say() -> None:
    """Clopper and Pearson's intervals hold the truth at least 95 times in 100."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(400):
        row = score({p: int(rng.integers(4)) for p in KEY}, KEY)["all"]
        held += row["low"] <= 0.5 <= row["high"]
    assert held >= 0.95 * 400


def _of_patients(number: int) -> dict[str, dict]:
    """A key of four pictures of each patient."""
    rows = [{"painted": n % 2 == 0, "class": "a", "patient": n // 4} for n in range(4 * number)]
    return {str(n): row for n, row in enumerate(rows)}


def _held(key: dict[str, dict], truth: float, alike: float) -> float:
    """How often the interval holds the truth, where patients are told apart as a beta distribution has it."""
    rng, held = np.random.default_rng(0), 0
    a, b = truth * (1 / alike - 1), (1 - truth) * (1 / alike - 1)
    patients = sorted({row["patient"] for row in key.values()})
    for _ in range(400):
        easy = {patient: rng.beta(a, b) for patient in patients}
        right = {p: rng.random() < easy[row["patient"]] for p, row in key.items()}
        row = score({p: 3 if right[p] == of["painted"] else 0 for p, of in key.items()}, key)["all"]
        held += row["low"] <= truth <= row["high"]
    return held / 400


@pytest.mark.parametrize("truth", [0.5, 0.7])
def test_intervals_hold_what_new_patients_would_give(truth: float) -> None:
    """Pictures of a patient are told apart alike (an intraclass correlation of 0.4)."""
    assert _held(_of_patients(12), truth, 0.4) >= 0.94


def test_pictures_of_few_patients_are_worth_less() -> None:
    key = _of_patients(12)
    answers = {p: 3 if int(p) % 3 or not row["painted"] else 0 for p, row in key.items()}
    alone = {p: {k: v for k, v in row.items() if k != "patient"} for p, row in key.items()}
    of_patients, of_pictures = score(answers, key)["all"], score(answers, alone)["all"]
    assert (of_patients["patients"], of_pictures["patients"]) == (12, None)
    assert of_patients["low"] <= of_pictures["low"]
    perfect = {p: 3 if row["painted"] else 0 for p, row in key.items()}
    assert score(perfect, key)["all"]["low"] == pytest.approx(0.7, abs=0.05)
    one = {p: {**row, "patient": 1} for p, row in key.items()}
    assert (score(perfect, one)["all"]["low"], score(perfect, one)["all"]["high"]) == (0.0, 1.0)


def test_only_real_answers_have_no_auc() -> None:
    row = score({p: 1 for p, of in KEY.items() if not of["painted"]}, KEY)["all"]
    assert row["auc"] is None
    assert row["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("picture,answer\n1,maybe\n", "'maybe' is none of surely real"),
        ("picture,answer\n99,surely real\n", "which the key does not have"),
        ("picture,answer\n1,surely real\n1,surely painted\n", "two answers for picture 1"),
        ("picture,answer\n1,\n", "has no answers"),
        ("picture,answer\n", "has no answers"),
        ("a,b\n", "expected picture and answer"),
        ("picture;answer\n1;surely real\n", "expected picture and answer, with commas"),
    ],
)
def test_faulty_answers_are_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "answers.csv"
    path.write_text(content)
    with pytest.raises(BadInput, match=said):
        read_answers(path, KEY)


def test_answers_that_are_not_there_are_named_without_a_python_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        read_answers(tmp_path / "none.csv", KEY)
    assert "none.csv cannot be read (No such file or directory); give" in str(refused.value)


def test_answers_are_read_as_saved(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("\ufeffpicture,answer\r\n" + "".join(f"{n},{answer}\r\n" for n, answer in enumerate(ANSWERS, 1)))
    assert read_answers(path, KEY) == {"1": 0, "2": 1, "3": 2, "4": 3}


def shown(area: float, painted: bool) -> Shown:
    return Shown(Picture("p", {}, 1, 1), painted, "a", f"case {area}", "p", area)


def test_lesions_are_matched_by_area() -> None:
    pairs = _matched([shown(100.0, True), shown(10.0, True)], [shown(a, False) for a in (9.0, 1000.0, 120.0)])
    assert [lesion.area for lesion in pairs] == [100.0, 120.0, 10.0, 9.0]
    assert [lesion.area for lesion in _matched([shown(5.0, True), shown(6.0, True)], [shown(6.0, False)])] == [5.0, 6.0]


def test_without_synthetic_cases_it_says_what_to_run(folders) -> None:
    make_dataset(folders[0])
    with pytest.raises(BadInput, match="run difflung_augment first"):
        main(["-d", "801", "-o", str(folders[0].parent / "reading")])
    assert not (folders[0].parent / "reading").exists()


def test_volumes_too(folders, fingerprint) -> None:
    make_dataset(folders[0], volumes=True, depth=5, patients=6)
    augment([*COPY, "--max-synthetic", "20"])
    raw = open_raw_dataset("801")
    lesions = make_reading(raw, read_manifest(raw.folder), "copy_paste", 4, 0)
    assert lesions
    assert sum(lesion.painted for lesion in lesions) * 2 == len(lesions)
    assert {tuple(lesion.picture.views) for lesion in lesions} == {("lung window", "mediastinal window")}
    assert all(replace(lesion).picture.width > 0 for lesion in lesions)


def test_pictures_of_boxes_reach_as_far_as_those_of_real_cases(folders, fingerprint) -> None:
    """A synthetic volume that is a part of its host is shown in all of it, or its picture would be smaller."""
    make_dataset(folders[0], volumes=True, depth=6, size=96, patients=6)
    augment([*COPY, "--box", "4", "--max-synthetic", "20"])
    raw = open_raw_dataset("801")
    lesions = make_reading(raw, read_manifest(raw.folder), "copy_paste", 4, 0)
    assert {lesion.painted for lesion in lesions} == {True, False}
    assert len({(lesion.picture.width, lesion.picture.height) for lesion in lesions}) == 1


def test_a_class_makes_up_for_a_rarer_one(folders, fingerprint, tmp_path: Path) -> None:
    make_dataset(folders[0], patients=8, slices=2)
    augment([*COPY, "--max-synthetic", "3"])
    manifest = read_manifest(folders[0] / "Dataset801_Tiny")
    of_class = {name: len(cases_of(manifest, "copy_paste", name)) for name in ("emphysema", "ILD")}
    few, most = sorted(of_class.values())
    assert few < most, "the phantom's plan has changed"
    main(["-d", "801", "-o", str(tmp_path / "all"), "--number", str(few + most)])
    key = read_json(tmp_path / "all" / "key.json")["pictures"]
    assert sum(row["painted"] for row in key.values()) == few + most


def test_area_is_that_of_the_lesion_that_is_shown() -> None:
    """A second lesion of the slice does not count, nor a slice in which small ones add up to more."""
    label = np.zeros((3, 60, 60), np.int16)
    label[0, 10:15, 10:15] = 2
    label[2, 40:44, ::8] = label[2, 41:45, 1::8] = 2
    scan = Scan("a", np.zeros((1, *label.shape)), label, (5.0, 1.0, 1.0), axial_view({"spacing": (5.0, 1.0, 1.0)}))
    (lesion,) = _shown(scan, "p", label == 2, _Look(None, Looks({"w": (0.0, 1.0)}, {}, 0)), "a", 2, False)
    assert lesion.area == 25.0


def test_a_lesion_that_merges_with_one_of_the_host_is_shown_last(folders, monkeypatch) -> None:
    """What is seen and outlined is both, off the middle and larger than the area that is matched."""
    make_dataset(folders[0], patients=4, slices=1)
    raw = open_raw_dataset("801")
    hosts = sorted(raw.cases)
    merging = {"difflung_0", "difflung_2"}

    def read(_, identifier: str, record: dict, whole: bool) -> InjectedCase:
        before = np.zeros((1, 40, 40), np.int16)
        before[0, 5:15, 5:15] = 3
        label = before.copy()
        corner = 15 if identifier in merging else 16  # beside the corner of the host's, or a voxel away
        label[0, corner : corner + 8, corner : corner + 8] = 3
        image, view = np.zeros((1, 1, 40, 40), np.float32), axial_view({"spacing": (5.0, 1.0, 1.0)})
        return InjectedCase(identifier, image, label, (5.0, 1.0, 1.0), view, image, before, record)

    monkeypatch.setattr(blind_reading, "read_injected", read)
    operations = [{"pathology": "ILD", "donor": hosts[0]}]
    records = {
        f"difflung_{n}": {"method": "copy_paste", "host": host, "sources": [host], "operations": operations}
        for n, host in enumerate(hosts)
    }

    def painted(number: int, seed: int) -> list[str]:
        rng, counts = np.random.default_rng(seed), (Counter[str](), Counter[str]())
        look = _Look(raw, Looks({"w": (-1000.0, 0.0)}, {}))
        found = _painted(raw, {"cases": records}, "copy_paste", "ILD", number, look, rng, *counts, 4)
        return [lesion.case for lesion in found]

    for seed in range(5):
        assert merging.isdisjoint(painted(2, seed))
        assert len(painted(2, seed)) == 2
        assert set(painted(4, seed)[2:]) == merging


def add_noise_and_table(folder: Path) -> None:
    """What a scan has around the body: noise, and something bright that does not touch it."""
    import SimpleITK as sitk

    rng = np.random.default_rng(0)
    for path in sorted((folder / "imagesTr").glob("*_0000.nii.gz")):
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        around = image == -1000
        image[around] = np.rint(rng.normal(-960, 20, around.sum()))
        image[:, -2:, :3] = 300
        write_array(path, image)


def corners(picture: Picture) -> np.ndarray:
    """Grey values in the corners of a picture, where no body is."""
    image = np.array(Image.open(io.BytesIO(base64.b64decode(picture.views["lung window"].split(",")[1]))))
    assert image.shape == (32, 32), "the whole slice"
    return np.concatenate([image[rows, columns].ravel() for rows in ENDS for columns in ENDS])


ENDS = slice(0, 3), slice(-3, None)


def test_what_is_around_the_body_does_not_say_which_slices_were_painted_as_a_whole(folders, tmp_path: Path) -> None:
    add_noise_and_table(make_dataset(folders[0], patients=6))
    painted_whole = ["--batch-size", "4", "--steps", "2", "--paint", "full"]
    augment([*ONE_FOLD_FAST, "--method", "cbmat", "--max-synthetic", "4", *painted_whole])
    raw = open_raw_dataset("801")
    lesions = make_reading(raw, read_manifest(raw.folder), "cbmat", 2, 0)
    assert {lesion.painted for lesion in lesions} == {True, False}
    assert {int(value) for lesion in lesions for value in corners(lesion.picture)} == {round(255 * 350 / 1500)}
    main(["-d", "801", "-o", str(tmp_path / "reading"), "--method", "cbmat"])
    page = (tmp_path / "reading" / "reading.html").read_text()
    assert "in a slice that a computer has painted as a whole" in page
    assert "into a real scan" not in page


def test_a_file_in_the_place_of_the_folder_is_refused(folders, tmp_path: Path) -> None:
    make_dataset(folders[0])
    (tmp_path / "reading").touch()
    with pytest.raises(BadInput, match="is a file, but a folder"):
        main(["-d", "801", "-o", str(tmp_path / "reading")])


def test_an_enlarged_picture_is_called_by_its_number_and_class(reading: Path) -> None:
    script = "document.querySelector('.enlarge').click(); return document.querySelector('#legend').textContent;"
    said, _ = in_browser(reading / "reading.html", script)
    key = read_json(reading / "key.json")["pictures"]
    assert said == f"1: {next(iter(key.values()))['class']} (1 of {len(key)})"
