"""Patients of case ids: unambiguous forms, candidate readings, files of patients, what splits and records say."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.manifest import MANIFEST, new_manifest
from nnunet_difflung.patients.candidates import candidates_for, examples, plausible_readings
from nnunet_difflung.patients.ids import UnknownPatients, are_readable, by_pattern, read_id, read_ids, same_partition
from nnunet_difflung.patients.reading import find_reading
from nnunet_difflung.patients.record import read_record, write_record
from nnunet_difflung.patients.table import covering, read_patients_file

NAME = "Dataset801_Tiny"
NAMES = ("smith", "jones", "meyer", "rossi", "dupont", "garcia")
SHORT_HASHES = ("7687a66e", "b5ef5e70", "659ba9df", "1b2d3c4a", "9e6e8b12", "d41b93f1")
HASHES = ("abcdef", "bcdefa", "cdefab", "defabc", "efabcd", "fabcde")


def made(pattern: str, **ranges) -> list[str]:
    """Ids of every combination, such as ``made("p{p:02}_v{v}", p=range(3), v=(1, 2))``."""
    ids = [{}]
    for name, values in ranges.items():
        ids = [{**one, name: value} for one in ids for value in values]
    return [pattern.format(**one) for one in ids]


# Ids that were taken for a patient each, and the expression that finds the true patient.
AMBIGUOUS = {
    "patient and time in one number": (made("genius_{p:02}{t:02}", p=range(8, 16), t=range(3)), "(.{9}).*"),
    "the same with slices": (made("genius_{p:02}{t:02}_s{s}", p=range(8, 16), t=range(3), s=(0, 1)), "(.{9}).*"),
    "scans of names": (made("{p}_{t:03}_s{s}", p=NAMES, t=range(2), s=(0, 1)), "([a-z]+).*"),
    "nodules": (made("lidc_p{p:04}_n{n:02}", p=range(1, 9), n=(1, 2, 3)), "(.{10}).*"),
    "time points": (made("pat{p:02}_t{t}", p=range(8), t=(0, 1)), "(.{5}).*"),
    "visits": (made("p{p:02}_v{v}_s{s:03}", p=range(1, 9), v=(1, 2), s=range(3)), "(.{3}).*"),
    "dates": (made("P{p:02}_20200{m}01_S{s:03}", p=range(1, 7), m=(1, 2), s=(1, 2)), "(.{3}).*"),
    "dates only": ([f"pat{p}_2019{p:02}{d:02}" for p in range(1, 9) for d in (3, 17)], "(.{4}).*"),
    "years": (made("pat{p}_{y}", p=range(1, 9), y=(2019, 2021)), "(.{4}).*"),
    "sides of slices": (made("p{p:02}_{side}_s{s:03}", p=range(1, 9), side="LR", s=range(3)), "(.{3}).*"),
    "sides": (made("case{p:02}_{side}", p=range(1, 9), side="LR"), "(.{6}).*"),
    "baseline": (made("lung_{p:03}_{t}", p=range(1, 9), t=("baseline", "followup")), "(.{8}).*"),
    "time first": (made("{t}_{p:03}", p=range(1, 9), t=("pre", "post")), ".*_(.*)"),
    "time first, slices": (made("t{t}_p{p:02}_s{s:03}", p=range(1, 9), t=(0, 1), s=(0, 1)), "[^_]+_([^_]+).*"),
    "kernels": (made("p{p:02}_s{s:03}_b{k}", p=range(1, 9), s=range(3), k=(30, 70)), "(.{3}).*"),
    "no separator": (made("p{p:02}slice{s:03}", p=range(1, 9), s=range(3)), "(.{3}).*"),
    "slice of": (made("pat{p:02}_slice{s:03}of030", p=range(1, 9), s=range(3)), "(.{5}).*"),
    "slice first": (made("slice{s:03}_pat{p:02}", p=range(1, 9), s=range(3)), ".*_(.*)"),
    "orientation last": (made("pat{p:02}_{s:03}_axial", p=range(1, 9), s=range(3)), "(.{5}).*"),
    "names": (made("{p}_{t:03}", p=NAMES, t=range(3)), "(.*)_.*"),
    "names without separator": (made("{p}{t:03}", p=NAMES, t=range(3)), "([a-z]+).*"),
    "hashes": (made("{p}-{t}", p=HASHES, t=range(3)), "(.*)-.*"),
    "short hashes": (made("{p}_{s:03}", p=SHORT_HASHES, s=range(3)), "(.*)_.*"),
    "CT-RATE": (made("train_{p}_{t}_{k}", p=range(1, 21), t="ab", k=(1, 2)), "([a-z]+_[0-9]+).*"),
    "a part of a set": (made("lung_train_{p:03}_{s:03}", p=range(1, 9), s=range(3)), "(.{14}).*"),
    "two numbers": (made("lung_{p:03}_{s:03}", p=range(1, 9), s=range(3)), "(.{8}).*"),
    "two numbers of two patients": (made("lung_{p:03}_{s:03}", p=(1, 2), s=range(6)), "(.{8}).*"),
    "visits of centres": (made("site{c}_{p:03}_v{v}", c=(1, 2), p=range(1, 9), v=(1, 2)), "(.{9}).*"),
    "frames": (made("P{p:02}_frame{s:03}", p=range(1, 7), s=range(3)), "(.{3}).*"),
    "numbers in names of sets": (made("covid19_case{p:02}_v{v}", p=range(1, 9), v=(0, 1)), "(.{14}).*"),
    "merged": (
        made("siteA_{p:02}_s{s:03}", p=range(1, 5), s=range(3)) + made("siteB_{p:02}_{s:03}", p=range(4), s=range(3)),
        "(.{8}).*",
    ),
    "sources of different forms": (
        made("genius_{p:02}{t:02}", p=range(8, 12), t=range(3)) + made("lidc_p{p:02}_n{n}", p=range(1, 5), n=(1, 2)),
        "(?:genius_(..)..|lidc_(p..).*)",
    ),
    "a source of volumes": (
        made("la_{n:03}", n=(3, 4, 5, 7, 9, 10)) + made("pat{p:02}_v{v}", p=range(1, 5), v=(1, 2)),
        "(la_...)|(pat..).*",
    ),
    "volumes and slices": (made("P{p:02}_s{s}", p=range(1, 5), s=range(3)) + made("P{p:02}", p=range(1, 9)), "(...).*"),
}
# Ids that each seem to name a patient, while all together can mean something else; and the true patient.
TOGETHER = {
    "subjects of tasks": (made("task{c:02}_s{p:03}", c=(1, 2), p=range(1, 9)), "(.+)"),
    "subjects of universities": (made("uni_{c}_s{p:03}", c=(1, 2), p=range(1, 9)), "(.+)"),
    "subjects of hospitals": (made("{c}_s{p:03}", c=("charite1", "mayo2", "insel3"), p=range(1, 9)), "(.+)"),
    "subjects of collections": (made("{c}_s{p:03}", c=("covid19", "luna16"), p=range(1, 9)), "(.+)"),
    "subjects of a collection": (made("covid-19_s{p:03}", p=range(1, 20)), "(.+)"),
    "subjects that are counted on": ([f"mgh{1 + k // 10}_s{k:03}" for k in range(40)], "(.+)"),
    "scans of few names": (made("{p}_{t:03}_s{s}", p=("smith", "jones"), t=range(2), s=(0, 1)), "([a-z]+).*"),
    "scans of few names, no separator": (made("{p}{t}_s{s}", p=("smith", "jones"), t=(1, 2), s=(0, 1)), "([a-z]+).*"),
    "tumours": (made("{p}_tumor{t}_s{s}", p=("smith", "jones"), t=(1, 2), s=(0, 1)), "([a-z]+).*"),
    "phases of contrast": (made("{t}_{p:02}_s{s}", t=("arterial", "venous"), p=range(1, 9), s=(0, 1)), ".*?([0-9]+).*"),
    "position": (made("{t}{p:02}_s{s}", t=("prone", "supine"), p=range(1, 9), s=(0, 1)), ".*?([0-9]+).*"),
    "phases that a patient lacks": (
        made("{t}_{p:02}_s{s}", t=("vorher", "nachher"), p=range(1, 9), s=(0, 1))[:-2],
        ".*?([0-9]+).*",
    ),
    "times of a number that a patient lacks": (
        made("genius_{p:02}{t:02}_s{s}", p=range(8, 16), t=range(2), s=(0, 1))[:-2],
        "(.{9}).*",
    ),
    "an unknown word": (made("{t}_{p:02}_s{s}", t=("siemens", "philips"), p=range(1, 9), s=(0, 1)), ".*?([0-9]+).*"),
    "surgery": (made("{t}_{p:02}_s{s}", t=("preop", "postop"), p=range(1, 9), s=(0, 1)), ".*?([0-9]+).*"),
    "BIDS, time": (made("sub-{t}{p:02}_ct", t=("pre", "post"), p=range(1, 9)), ".*?([0-9]+).*"),
    "BIDS, side": (made("sub-{t}{p:02}_ct", t="LR", p=range(1, 9)), ".*?([0-9]+).*"),
    "a separator": (
        made("p{p:02}_s{s}", p=(1, 2, 3), s=(1, 2)) + made("p_{p:02}_s{s}", p=(1, 2, 3), s=(3, 4)),
        "p_?(..).*",
    ),
    "BIDS and others": (
        made("sub-{p:02}_ct", p=(1, 2, 3)) + made("sub{p:02}_s{s}", p=(1, 2, 3), s=(3, 4)),
        "sub-?(..).*",
    ),
    "words for patients": (
        made("p{p:02}_s{s}", p=(1, 2, 3), s=(1, 2)) + made("patient_{p}_s{s}", p=(1, 2, 3), s=(3, 4)),
        "[a-z]+_?0?([0-9]+).*",
    ),
}
# Ids of datasets that need no word, as long as there are no such doubts.
ORDINARY = {
    "one source": (made("lung_{p:03}_s{s:03}", p=range(1, 65), s=range(12, 15)), "(.{8}).*"),
    "two patients": (made("lung_{p:03}_s{s:03}", p=(1, 2), s=range(40)), "(.{8}).*"),
    "two sources": (
        made("lung_{p:03}_s{s:03}", p=range(1, 20), s=(1, 2))
        + made("LIDC-IDRI-{p:04}_s{s:03}", p=range(1, 20), s=(1, 2)),
        "(.+)_.*",
    ),
    "two unknown sources": (
        made("mayo_{p:03}_s{s:03}", p=range(1, 20), s=(1, 2)) + made("insel_{p:03}_s{s:03}", p=range(1, 15), s=(1, 2)),
        "(.+)_.*",
    ),
    "sites": (made("site{c}_{p:02}_s{s:03}", c="AB", p=(1, 2, 3), s=range(3)), "(.{8}).*"),
    "cohorts": (made("{c}_{p:02}_s{s:03}", c=("train", "val"), p=range(1, 9), s=range(3)), "(.+)_.*"),
    "few slices each": ([f"p{p:02}_s{s:03}" for p, s in ((1, 7), (1, 8), (2, 40), (3, 41), (4, 2))], "(...).*"),
    "groups in BIDS": (made("sub-{g}{p:02}_ses-{v}", g=("control", "patient"), p=range(1, 9), v=(1, 2)), "(.+)_.*"),
}
# Ids with one number, where all but "every case is a patient" would be far-fetched.
SINGLE = {
    "BRATS": made("BRATS_{n:03}", n=range(1, 485)),
    "with gaps": made("la_{n:03}", n=(3, 4, 5, 7, 9, 10, 11, 14, 16, 17, 18, 19, 20, 21, 22, 23, 24, 26, 29, 30)),
    "from zero": made("case_{n:04}", n=range(100)),
    "few": made("case_{n:03}", n=range(15)),
    "not padded": made("liver_{n}", n=range(131)),
    "set with a number": made("FLARE22_Tr_{n:04}", n=range(1, 51)),
    "sites": made("site{c}_{n:03}", c="ABC", n=range(1, 20)),
    "numbered sites": made("site{c}_{n:03}", c=range(1, 7), n=range(1, 20)),
    "sites without separator": made("{c}{n:03}", c="AB", n=range(1, 51)),
    "unique behind a site": [f"TCGA-{n % 7:02}-{n:04}" for n in range(6, 300, 7)] + ["TCGA-02-0001"],
    "classes": made("{c}_{n:03}", c=("emphysema", "ILD", "normal"), n=range(1, 20)),
    "time that is always the same": made("BraTS-GLI-{n:05}-000", n=range(1, 60)),
    "numbers": made("{n:03}", n=range(1, 60)),
    "parts of a challenge": made("LCTSC-{part}-S{c}-{n:03}", part=("Train", "Test"), c=(1, 2, 3), n=range(1, 13)),
    "two sets": made("LITS_{n:03}", n=range(1, 40)) + made("BTCV_{n:03}", n=range(1, 30)),
}


def torn_splits(ids: list[str]) -> list[dict]:
    """Five folds that ignore patients, as nnU-Net's own are."""
    return [{"train": [i for n, i in enumerate(ids) if n % 5 != k], "val": ids[k::5]} for k in range(5)]


@pytest.mark.parametrize(
    ("identifier", "patient"),
    [
        ("lung_001_s012", "lung_001"),
        ("p003_slice_7", "p003"),
        ("P00_s000", "P00"),
        ("phantom_p003_s04", "phantom_p003"),
        ("LIDC-IDRI-0001_z12", "LIDC-IDRI-0001"),
        ("siteA_01_s000", "siteA_01"),
        ("case01-slice3", "case01"),
        ("sub-01", "sub-01"),
        ("sub-01_ses-02_ct", "sub-01"),
        ("sub-A7_ses-2020_run-1_s003", "sub-A7"),
    ],
)
def test_an_id_names_its_patient_only_in_unambiguous_forms(identifier, patient):
    assert read_id(identifier) == patient


def test_all_other_ids_can_be_read_in_several_ways():
    ambiguous = """
    sub-01ses02_ct sub-01L sub-20200101 round2_s001 fraction_3_s001
    p01_v1_s001 P01_20200101_S001 p01_L_s001 p01_s001_b30 lidc_p0003_n02 pat01_t0 genius_0800 smith_000
    case01_L P01 p01 case_0000 BRATS_001 smith_slice003 lung_001_012 p01slice003 v1_s001 t0_p01_s000 L_p01_s001
    right_01_s001 20200101_s001 scan_20200101_s000 baseline_p01_s003 site_01_s003 b30_s001 _s001 nodule01_s003
    p01_s001of030 kernel_30_s001 covid_slice_001 s01_s001 1_s001 Sub-01_ct sub_01_ct p01_pre_s001 series3_s001
    p01_s01_s001 week12_s001 lung_2019_s001
    """
    assert [identifier for identifier in ambiguous.split() if read_id(identifier) is not None] == []


@pytest.mark.parametrize("style", ORDINARY)
def test_ordinary_datasets_need_no_word(style):
    ids, true = ORDINARY[style]
    assert same_partition(read_ids(ids), by_pattern(ids, true))


@pytest.mark.parametrize("style", [*AMBIGUOUS, *TOGETHER])
def test_ambiguous_ids_are_refused_with_the_right_reading_among_the_candidates(style):
    ids, true = (AMBIGUOUS | TOGETHER)[style]
    with pytest.raises(UnknownPatients) as refused:
        read_ids(ids)
    assert str(refused.value).startswith(f"the patients cannot be told from the {len(ids)} case ids")
    options = [line.strip() for line in refused.value.details[1::2]]
    pasted = [shlex.split(option) for option in options]
    assert all(len(words) == 2 and words[0] == "--patient-pattern" for words in pasted), "each can be pasted"
    readings = [by_pattern(ids, words[1]) for words in pasted]  # each matches all ids
    assert any(same_partition(reading, by_pattern(ids, true)) for reading in readings), options
    assert len(readings) <= 6
    assert ["--patient-pattern", "(.+)"] in pasted
    assert all(not same_partition(a, b) for n, a in enumerate(readings) for b in readings[:n])
    for line, reading in zip(refused.value.details[::2], readings, strict=True):
        assert int(line.split()[0]) == len(set(reading.values()))
        shown = [pair.split(" → ") for pair in line.split("): ", 1)[1].split(", ")]
        assert [reading[case] for case, _ in shown] == [patient for _, patient in shown]
        assert len(shown) == 3


@pytest.mark.parametrize("style", AMBIGUOUS)
def test_folds_that_cut_a_plausible_patient_are_warned_of(style, folders):
    ids, true = AMBIGUOUS[style]
    splits = torn_splits(ids)
    reading = find_reading(NAME, ids, splits=splits, where="splits_final.json")
    assert "splits_final.json seems to have patients in training and in validation" in str(reading.warning)
    assert "--patient-pattern" in reading.warning
    assert reading.source == "splits"
    patients = by_pattern(ids, true)
    names = sorted(set(patients.values()))
    if len(names) > 2:
        grouped = [
            {side: [i for i in ids if (patients[i] in names[k::3]) == (side == "val")] for side in ("train", "val")}
            for k in range(3)
        ]
        reading = find_reading(NAME, ids, splits=grouped, where="splits_final.json")
        assert reading.warning is None
        if style == "scans of names":  # only the scans of a name are recognised as those of one patient
            patients = by_pattern(ids, "(.+)_.*")
        assert same_partition(reading.patients, patients), "those who are plausibly one patient count as one"


@pytest.mark.parametrize(
    ("ids", "alike"),
    [
        (made("s{p:04}_s{s:03}", p=(11, 30, 55, 101), s=range(4)), "s0011"),
        (made("{c}{p}_s{s:03}", c="AB", p=range(1, 6), s=range(4)), "A1"),
        (made("202003{d:02}_s{s:03}", d=range(3, 9), s=range(4)), "20200303"),
        (made("SE{p:03}_IM{s:03}", p=range(1, 6), s=range(4)), "SE001"),
        (made("{t}{p:02}_s{s}", t=("exp", "insp"), p=range(1, 9), s=range(3)), "01"),
        (made("sub-{t}{p:02}_ct", t=("pre", "post"), p=range(1, 9)), "01"),
    ],
)
def test_folds_that_cut_slices_of_a_series_or_times_of_a_number_are_warned_of(ids, alike, folders):
    splits = torn_splits(ids)
    splits[0] = {"train": ids[1:], "val": ids[:1]}
    reading = find_reading(NAME, ids, splits=splits, where="splits_final.json")
    assert f"and may both be of patient {alike} " in str(reading.warning)


@pytest.mark.parametrize("style", SINGLE)
def test_ids_with_one_number_are_refused_but_no_cause_for_warnings(style, folders):
    ids = SINGLE[style]
    assert plausible_readings(ids) == []
    with pytest.raises(UnknownPatients):
        read_ids(ids)
    assert candidates_for(ids)[0].pattern == "(.+)", "the first, since no other makes sense"
    reading = find_reading(NAME, ids, splits=torn_splits(ids), where="splits_final.json")
    assert (reading.source, reading.warning) == ("splits", None)
    assert reading.patients == {i: i for i in ids}


def test_the_cases_of_the_covid_benchmark():
    ids = [f"coronacases_{k:03}" for k in range(1, 11)] + [
        f"radiopaedia_{number}" for number in ("4_85506_1", "7_85703_0", "10_85902_1", "10_85902_3", "14_85914_0")
    ]
    together = {"radiopaedia_10_85902_1", "radiopaedia_10_85902_3"}
    (plausible,) = plausible_readings(ids)
    assert [set(group) for group in plausible.groups() if len(group) > 1] == [together]
    assert any(len(set(c.patients.values())) == len(ids) - 1 for c in candidates_for(ids))


@pytest.mark.parametrize(
    "word",
    ["accession", "AccessionNumber", "studyid", "study_id", "image_id", "ctscan", "examno", "encounter", "Aufnahme"],
)
def test_numbers_of_examinations_are_no_patients(word):
    ids = made(f"{word}_{{n:04}}_s{{s}}", n=range(1001, 1009), s=(0, 1))
    assert not are_readable(ids)
    assert are_readable([identifier.replace(word, "patientid") for identifier in ids])


def test_no_id_changes_the_reading_of_another():
    slices = made("lung_{p:03}_s{s}", p=range(3), s=(0, 1))
    assert read_ids(slices) == {i: i[:8] for i in slices}
    with pytest.raises(UnknownPatients, match="such as 'other_p1_v2'"):
        read_ids([*slices, "other_p1_v2"])
    assert read_ids([*slices, "sub-1_ct"]) == {**{i: i[:8] for i in slices}, "sub-1_ct": "sub-1"}


@pytest.mark.parametrize(
    "ids",
    [["P01_s000", "p01_s001", "P02_s000"], ["p1_s0", "p01_s1"], ["a-p1_s0", "a_p1_s1"]],
)
def test_patients_that_differ_in_spelling_only_are_not_told_apart(ids):
    with pytest.raises(UnknownPatients, match="may be the same"):
        read_ids(ids)


def test_upper_and_lower_case_can_be_read_as_the_same_patient():
    ids = made("{p}{n:02}", p="Pp", n=range(1, 9))
    assert any(len(set(c.patients.values())) == 8 for c in candidates_for(ids))


tokens = st.sampled_from(["p{p:02}", "lung_{p:03}", "P{p}", "siteA_p{p:02}", "{p:03}", "x{p:04}a"])
ends = st.sampled_from(
    ["", "_s{s:03}", "_v{s}", "_{s}", "-L", "_2019010{s}", "slice{s}", "_s{s}_b30", "_S{s}", "_n0{s}"]
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(tokens, ends, st.integers(1, 30), st.integers(0, 9)), min_size=2, max_size=40))
def test_every_candidate_reads_every_id_as_its_option_says(parts):
    ids = sorted({(token + end).format(p=p, s=s) for token, end, p, s in parts})
    candidates = candidates_for(ids)
    assert {i: i for i in ids} in [candidate.patients for candidate in candidates]
    assert len(candidates) <= 6
    for candidate in candidates:
        _, pattern = shlex.split(candidate.option)
        assert by_pattern(ids, pattern) == candidate.patients
        assert len(examples(candidate.patients)) == min(3, len(ids))
    for identifier in ids:
        alone = read_id(identifier)
        assert alone is None or re.fullmatch(r"(.+?)[_-](s|S)[0-9]+", identifier)[1] == alone


def test_a_pattern_names_the_patient():
    assert by_pattern(["x1y2"], "x(.)y.") == {"x1y2": "1"}
    for pattern, message in (("y.*", "does not match"), ("(", "regular expression"), ("x()1y2", "no patient")):
        with pytest.raises(BadInput, match=message):
            by_pattern(["x1y2"], pattern)


# ---- files ----


@pytest.mark.parametrize(
    "content",
    [
        "case,patient\na1,a\na2,a\nb1,b\n",
        "\ufeffcase;patient\r\na1;a\r\na2;a\r\nb1;b\r\n",
        'Patient , Case\n"a", "a1"\na , a2\n\nb,b1\n',
        "case\tpatient\na1\ta\na2\ta\nb1\tb\n",
        "case;patient;;\na1;a;;\na2;a;;\nb1;b;;\n;;;\n",
        "age,patient,case\n50,a,a1\n51,a,a2\n,b,b1\n",
        '{"a1": "a", "a2": "a", "b1": "b"}',
    ],
)
def test_files_of_patients(content, tmp_path):
    path = tmp_path / ("p.json" if content.startswith("{") else "p.csv")
    path.write_text(content, encoding="utf-8", newline="")
    assert read_patients_file(path) == {"a1": "a", "a2": "a", "b1": "b"}
    assert covering(read_patients_file(path), ["a1", "b1"], path) == {"a1": "a", "b1": "b"}
    path.rename(tmp_path / "p.txt")
    assert len(read_patients_file(tmp_path / "p.txt")) == 3, "JSON is known by its first character too"


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("id,patient\na1,a\n", ["'id,patient'", "header case,patient"]),
        ("a1,a\n", ["header case,patient"]),
        ("", ["lists no case"]),
        ("case,patient\n", ["lists no case"]),
        ("case,patient\na1,a\na2\n", ["row 3", "1 fields"]),
        ("case,patient\na1,a,x\n", ["row 2", "3 fields"]),
        ("case,patient,age\na1,a\n", ["row 2", "2 fields, expected 3"]),
        ("case,case,patient\na1,a1,a\n", ["header case,patient"]),
        ('case,patient\n"a1","x\ny"\n', ["row 3", "line break"]),
        ('{"a1": "\\ud800"}', ["entry 1", "cannot be shown"]),
        ("[" * 100_000, ["not valid JSON"]),
        ("case,patient\na1,\n", ["row 2", "patient of case 'a1' is empty"]),
        ("case,patient\n,a\n", ["row 2", "the case is empty"]),
        ("case,patient\na1,a\nb1,b\na1,b\n", ["row 4", "'a1'", "'b'", "'a' in row 2"]),
        ("case,patient\na1,a\nA1,a\n", ["row 3", "'A1'", "only in upper and lower case", "row 2"]),
        ("case,patient\na1,a\nb1,b\na2,A\n", ["row 4", "patient 'A'", "'a' in row 2"]),
        ('case,patient\n"a1,a\n', ["p.csv row"]),
        (b"\xff\xfec\x00", ["not UTF-8"]),
        ("[1]", ["not a JSON object"]),
        ('[["a", "b"]]', ["not a JSON object"]),
        ("{", ["not valid JSON"]),
        ('{"a1": "a", "a1": "b"}', ["entry 2", "'a' in entry 1"]),
        ('{"a1": ["a"]}', ["entry 1", "'a1'", "not text"]),
        ('{"a1": " "}', ["entry 1", "empty"]),
    ],
)
def test_faults_of_files(content, parts, tmp_path):
    path = tmp_path / ("p.json" if str(content).startswith(("{", "[")) else "p.csv")
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadInput) as refused:
        read_patients_file(path)
    message = str(refused.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_file_has_to_list_every_case(tmp_path):
    path = tmp_path / "p.csv"
    with pytest.raises(BadInput, match="cannot be read"):
        read_patients_file(path)
    for listed, part in (
        ("a1", "'b1', 1 of 2 cases are missing"),
        ("B1", "it lists 'B1', which differs only in upper and lower case"),
        ("b1.nii.gz", "it lists 'b1.nii.gz'; a case has no folder, channel number or ending"),
        ("imagesTr/b1_0000.nii.gz", "a case has no folder, channel number or ending"),
    ):
        with pytest.raises(BadInput, match=part):
            covering({"a1": "a", listed: "b"}, ["a1", "b1"], path)
    with pytest.raises(BadInput, match="it lists '7'; keep the zeros before the number, which spreadsheets drop"):
        covering({"7": "a"}, ["007"], path)


# ---- what counts ----

IDS = made("genius_{p:02}{t:02}", p=range(8, 12), t=(0, 1))
TRUE = "(.+)[0-9]{2}"


@pytest.fixture
def dataset(folders):
    """Folders of a dataset of two time points of four patients, without files of cases."""
    raw, preprocessed, results = folders
    for folder in (raw, preprocessed, results):
        (folder / NAME).mkdir()
    return raw / NAME


def recorded(**options):
    reading = find_reading(NAME, IDS, **options)
    reading.record(NAME)
    return reading


def test_a_pattern_is_recorded_and_applied_to_new_cases(dataset):
    with pytest.raises(UnknownPatients):
        find_reading(NAME, IDS)
    first = recorded(pattern=TRUE)
    again = find_reading(NAME, [*IDS, "genius_1200"])
    assert again.patients == {**first.patients, "genius_1200": "genius_12"}
    assert again.as_dict() == {"from": "pattern", "pattern": TRUE, "patients": 5}
    with pytest.raises(BadInput, match="does not match the case id 'new'"):
        find_reading(NAME, [*IDS, "new"])


def test_a_file_is_recorded_and_new_cases_need_a_row(dataset, tmp_path):
    path = tmp_path / "who.csv"
    rows = [f"{i},{i[:9]}" for i in IDS]
    path.write_text("\n".join(["case,patient", *rows, "genius_1300,genius_13"]))
    first = recorded(file=path)
    path.unlink()
    again = find_reading(NAME, [*IDS, "genius_1300"])
    assert again.patients == {**first.patients, "genius_1300": "genius_13"}
    assert again.as_dict()["file"] == "who.csv"
    assert len(again.as_dict()["sha256"]) == 64
    with pytest.raises(BadInput, match="case genius_1200 is not among .*--patients FILE"):
        find_reading(NAME, [*IDS, "genius_1200"])
    with pytest.raises(BadInput, match="case lung_001_s000 is not among"):
        find_reading(NAME, [*IDS, "lung_001_s000"])


def test_patients_of_a_file_that_may_be_one_are_noted(dataset, tmp_path):
    path = tmp_path / "who.csv"
    path.write_text("case,patient\n" + "".join(f"{i},{'7' if n else '007'}\n" for n, i in enumerate(IDS)))
    (note,) = find_reading(NAME, IDS, file=path).notes
    assert note.startswith(f"Note: {path} takes '007' and '7' for two patients")


def test_patients_json_beside_the_dataset_is_read_without_being_told(dataset, tmp_path):
    (dataset / "patients.json").write_text(json.dumps({i: i[:9] for i in IDS}))
    reading = find_reading(NAME, IDS)
    assert (reading.source, len(set(reading.patients.values())), reading.notes) == ("file", 4, ())
    option = find_reading(NAME, IDS, pattern="(.+)")
    assert len(set(option.patients.values())) == 8
    assert f"{dataset / 'patients.json'} says otherwise" in option.notes[0]
    option.record(NAME)
    later = find_reading(NAME, IDS)
    assert later.patients == option.patients, "an option counts for later commands too"
    assert "says otherwise" in later.notes[0]


def test_other_patients_than_recorded_are_refused_once_something_was_made(dataset):
    recorded(pattern=TRUE)
    other = find_reading(NAME, IDS, pattern="(.+)")
    assert "replaces the patients that were recorded" in other.notes[0]
    (dataset.parent.parent / "nnUNet_results" / NAME / "DiffLung__cbmat" / "fold_0").mkdir(parents=True)
    with pytest.raises(BadInput, match=r"gives other patients \(8\) .*difflung_remove -d Dataset801_Tiny --generators"):
        find_reading(NAME, IDS, pattern="(.+)")
    (dataset / "patients.json").write_text(json.dumps({i: i for i in IDS}))
    assert find_reading(NAME, IDS).patients == by_pattern(IDS, TRUE)
    same = find_reading(NAME, IDS, pattern="genius_(..)..")
    assert same.patients == by_pattern(IDS, TRUE), "the same patients keep the names that are recorded"
    (dataset / "patients.json").unlink()
    same.record(NAME)
    assert find_reading(NAME, [*IDS, "genius_0802"]).patients["genius_0802"] == "genius_08", "also those of new cases"


def test_the_manifest_counts_also_that_of_an_earlier_version(dataset):
    manifest = new_manifest(NAME, {i: i for i in IDS})
    (dataset / MANIFEST).write_text(json.dumps(manifest))
    splits = torn_splits(IDS)
    reading = find_reading(NAME, IDS, splits=splits, where="splits_final.json")
    assert (reading.source, reading.patients) == ("recorded", {i: i for i in IDS})
    assert "genius_08" in str(reading.warning)
    stated = new_manifest(NAME, by_pattern(IDS, TRUE), reading=find_reading(NAME, IDS, pattern=TRUE).as_dict())
    (dataset / MANIFEST).write_text(json.dumps(stated))
    reading = find_reading(NAME, [*IDS, "genius_2000"], splits=splits)
    assert (reading.source, reading.warning) == ("pattern", None)
    assert reading.patients["genius_2000"] == "genius_20"


def test_new_cases_whose_ids_are_spelled_differently_are_refused(dataset):
    ids = made("p{p:02}_s{s}", p=range(4), s=(0, 1))
    (dataset / MANIFEST).write_text(json.dumps(new_manifest(NAME, read_ids(ids))))
    assert find_reading(NAME, [*ids, "p04_s0"]).patients["p04_s0"] == "p04"
    with pytest.raises(BadInput, match="case P03_s2 is not among"):
        find_reading(NAME, [*ids, "P03_s2"])


def test_a_damaged_record_is_named(dataset):
    recorded(pattern="(.+)")
    path = read_record(NAME).path
    assert json.loads(path.read_text())["format"] == 1
    for content, part in (
        ("{", "is damaged"),
        ("[]", "not an object"),
        ('{"patients": 1}', "'patients'"),
        ('{"format": 9}', "format 9"),
    ):
        path.write_text(content)
        with pytest.raises(BadInput, match=part):
            find_reading(NAME, IDS)


def test_the_same_record_is_not_written_again(dataset):
    recorded(pattern="(.+)")
    path = read_record(NAME).path
    before = path.stat()
    recorded()
    assert path.stat() == before
    write_record(NAME, {"from": "ids"}, {})
    assert path.stat() != before


def test_splits_of_readable_ids_are_checked_by_these(dataset):
    ids = made("p{p:02}_s{s}", p=range(4), s=(0, 1))
    assert find_reading(NAME, ids, splits=torn_splits(ids)).source == "ids"
    mixed = [*ids, "other_a", "other_b"]
    reading = find_reading(NAME, mixed, splits=torn_splits(mixed), where="splits_final.json")
    assert reading.patients["p00_s0"] == reading.patients["p00_s1"] == "p00"


def test_what_nobody_said_is_read_again_while_nothing_was_made_with_it(dataset):
    splits = torn_splits(IDS)
    reading = find_reading(NAME, IDS, splits=splits)
    reading.record(NAME)
    grouped = [{"train": IDS[2:], "val": IDS[:2]}]
    assert find_reading(NAME, IDS, splits=grouped).patients == by_pattern(IDS, TRUE)
    (dataset.parent.parent / "nnUNet_results" / NAME / "DiffLung__cbmat" / "fold_0").mkdir(parents=True)
    assert find_reading(NAME, IDS, splits=grouped).patients == {i: i for i in IDS}


def test_numbers_count_scans_of_patients_only_if_they_start_alike_and_are_few():
    def splits_a_number(scans: dict[int, range]) -> bool:
        ids = [f"genius_{patient:02d}{scan:02d}" for patient, of_patient in scans.items() for scan in of_patient]
        return any(reading.splits_numbers for reading in plausible_readings(ids))

    assert splits_a_number({8: range(5), 9: range(4), 12: range(5)})
    assert not splits_a_number({8: range(30), 9: range(30), 12: range(30)}), "so many are the patients of a source"
    assert not splits_a_number({8: range(3, 6), 9: range(4), 12: range(5)}), "they do not count from the same number"
