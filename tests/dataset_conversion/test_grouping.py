"""Which pictures and scans belong to one patient: what names tell, what is doubted, what a file or a pattern says."""

from __future__ import annotations

import re
import shlex

import pytest

from nnunet_difflung.dataset_conversion.archive.grouping import Named, grouped
from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions
from nnunet_difflung.errors import BadInput


def group(names, kind="volumes", **options):
    ending = ".png" if kind == "slices" else ".nii.gz"
    return grouped([Named(name, f"images/{name}{ending}") for name in names], kind, ArchiveOptions(**options))


def numbered(*patterns: str, count: int = 3) -> list[str]:
    return [pattern.format(k) for pattern in patterns for k in range(count)]


TOLD = [  # kind, names, patients
    ("volumes", ["p1", "p2", "p10"], ["p1", "p2", "p10"]),
    ("volumes", ["LIDC-IDRI-0001", "LIDC-IDRI-0102"], ["LIDC-IDRI-0001", "LIDC-IDRI-0102"]),
    ("volumes", ["1", "2", "10"], ["1", "2", "10"]),
    ("volumes", ["coronacases_001", "coronacases_002"], ["coronacases_001", "coronacases_002"]),
    ("volumes", ["Müller Jörg 1", "Muller Jorg 2"], ["Müller Jörg 1", "Muller Jorg 2"]),
    ("volumes", ["pat7/2019", "pat7/2021", "pat8/2019"], ["pat7", "pat7", "pat8"]),
    ("volumes", ["p01/b30", "p01/b70", "p02/b30"], ["p01", "p01", "p02"]),
    ("volumes", ["sub-01_ses-01_ct", "sub-01_ses-02_ct", "sub-02_ses-01_ct"], ["sub-01", "sub-01", "sub-02"]),
    ("volumes", ["siteA/p1", "siteA/p2", "siteB/p3"], ["p1", "p2", "p3"]),
    ("volumes", ["anything"], ["anything"]),
    ("slices", ["p1_s00", "p1_s01", "p2_s00"], ["p1", "p1", "p2"]),
    ("slices", ["p1/000", "p1/001", "p2/000"], ["p1", "p1", "p2"]),
    ("slices", ["pat7/2019/s01", "pat7/2021/s01", "pat8/2019/s01"], ["pat7", "pat7", "pat8"]),
    ("slices", ["train/p1_s0", "train/p1_s1", "val/p2_s0"], ["p1", "p1", "p2"]),
]
DOUBTED = [
    ("slices", [f"{k:03d}" for k in range(250)]),
    ("slices", numbered("img{:03d}", count=50)),
    ("slices", ["p1", "p2", "p3"]),  # pages or patients
    ("slices", ["smith", "jones"]),
    ("slices", numbered("p01slice{:03d}", "p02slice{:03d}")),
    ("slices", numbered("lung_001_{:03d}", "lung_002_{:03d}", "lung_003_{:03d}")),
    ("slices", numbered("pat7_2019_s{}", "pat7_2021_s{}", "pat8_2019_s{}")),
    ("slices", numbered("p01_v1_s{}", "p01_v2_s{}", "p02_v1_s{}")),
    ("slices", numbered("siteA_01_s{:03d}", "siteB_01_{:03d}")),
    ("slices", numbered("P01_s{}", "p01_s{}")),
    ("slices", numbered("covid/{}", "normal/{}")),  # folders of classes
    ("slices", numbered("0/{:03d}", "1/{:03d}")),
    ("slices", numbered("fold1/{}", "fold2/{}")),
    ("slices", numbered("smith/{}", "jones/{}")),
    ("slices", ["train/p1_s0", "val/p1_s0"]),
    ("slices", numbered("covid19/pat{}")),
    ("slices", [f"genius_{p:02d}{t:02d}_s{s}" for p in range(8, 12) for t in range(3) for s in range(2)]),
    ("volumes", ["pat7_2019", "pat7_2021"]),
    ("volumes", ["pat7_2019", "LIDC-IDRI-0001", "LIDC-IDRI-0002"]),  # each name is read by itself
    ("volumes", [f"genius_{p:02d}{t:02d}" for p in range(8, 14) for t in range(3)]),
    ("volumes", ["lung_001_baseline", "lung_001_followup", "lung_002_baseline"]),
    ("volumes", ["case01_L", "case01_R", "case02_L"]),
    ("volumes", ["p01_b30", "p01_b70", "p02_b30"]),
    ("volumes", ["p1", "p1_2"]),
    ("volumes", numbered("smith_{:03d}", "jones_{:03d}")),
    ("volumes", ["p1", "p01", "p2"]),
    ("volumes", ["pat7/01", "pat7/02", "pat8/03"]),
    ("volumes", ["2019/p1", "2021/p1", "2021/p2"]),
    ("volumes", ["scan1", "scan2"]),
    ("volumes", ["TCGA-17-Z001", "TCGA-17-Z002", "TCGA-34-Z001"]),  # no slices of TCGA-17
    ("volumes", ["p01_s1", "p01_s2", "p02_s1"]),
    ("volumes", ["1.3.6.1.4.1.14519.5.2.1", "1.3.6.1.4.1.14519.5.2.2"]),
]


@pytest.mark.parametrize(("kind", "names", "patients"), TOLD)
def test_names_that_leave_no_doubt(kind, names, patients):
    grouping = group(names, kind)
    assert grouping.refusal is None
    assert list(grouping.patients) == patients


@pytest.mark.parametrize(("kind", "names"), DOUBTED)
def test_names_that_are_doubted_and_every_reading_that_is_offered_can_be_pasted(kind, names):
    refusal = group(names, kind).refusal
    assert refusal is not None
    assert f"{len(names)} names of the {'pictures' if kind == 'slices' else 'volumes'}" in str(refusal)
    assert "--patients FILE" in str(refusal)
    for shown, option in zip(refusal.details[::2], refusal.details[1::2], strict=True):
        name, pattern = shlex.split(option)
        assert name == "--patient-pattern"
        stated = group(names, kind, patient_pattern=pattern)
        assert stated.refusal is None
        assert len(set(stated.patients)) == int(shown.split()[0])
    assert "--patient-pattern '(.+)'" in [line.strip() for line in refusal.details]


def test_a_file_names_pictures_by_path_or_name_with_or_without_ending(tmp_path):
    names = ["001", "002", "003", "004"]
    path = tmp_path / "patients.csv"
    path.write_text("case,patient\nimages/001.png,A\n./images/002,A\nimages\\003.png,B\n004,B\nelsewhere,C\n")
    grouping = group(names, "slices", patients=path)
    assert grouping.patients == ("A", "A", "B", "B")
    assert grouping.text() == "from --patients patients.csv"
    assert grouping.text(anonymous=True) == "from --patients"
    path.write_text("case,patient\nimages/001.png,A\nimages/002,A\n003.png,B\n004,B\n")
    assert group(names, "slices", patients=path).patients == ("A", "A", "B", "B")
    path = tmp_path / "patients.json"
    path.write_text('{"001": "A", "002": "A", "003": "B", "images/004.png": "B"}')
    assert group(names, "slices", patients=path).patients == ("A", "A", "B", "B")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("001,A\n002,A\n", r"patients.csv does not list case '003' or 'images/003.png', 1 of 3 .* add a row"),
        ("001,A\n002,A\n003,B\n./images/003.png,C\n", r"are the same file.*keep the right row"),
        ("001,A\n002,A\n003,B\nimages/003.png,C\n", r"003 and images/003.png are the same file.*'B'.*'C'; keep"),
        ("001,A\n002,\n003,B\n", r"row 3: the patient of case '002' is empty"),
    ],
)
def test_a_file_that_leaves_a_patient_open_is_refused(tmp_path, rows, message):
    (tmp_path / "patients.csv").write_text("case,patient\n" + rows)
    with pytest.raises(BadInput, match=message):
        group(["001", "002", "003"], "slices", patients=tmp_path / "patients.csv")


def test_a_file_name_that_several_pictures_have_does_not_count(tmp_path):
    path = tmp_path / "patients.csv"
    path.write_text("case,patient\n001.png,A\na/002,A\n")
    scans = [Named("a/001", "a/001.png"), Named("a/002", "a/002.png"), Named("b/001", "b/001.png")]
    with pytest.raises(BadInput, match=re.escape("does not list case 'a/001'")):
        grouped(scans, "slices", ArchiveOptions(patients=path))


def test_a_pattern_that_reads_no_patient_is_refused():
    with pytest.raises(BadInput, match="reads no patient from the name '002'"):
        group(["a001", "002"], "slices", patient_pattern="([a-z]*)[0-9]+")


@pytest.mark.parametrize(
    ("names", "doubted"),
    [
        ([f"TCGA-{a}-Z{b:03d}" for a in (17, 34) for b in (1, 2)], False),
        ([f"S{site:02d}-{number:03d}" for site in (1, 2, 3) for number in range(1, 12)], False),
        ([f"R01-{number:03d}" for number in range(1, 30)], False),
        (["scan1", "scan2"], False),
        (["siteA/p1", "siteB/p1"], True),
        (["pat7_2019", "pat7_2021", "pat8_2019"], True),
        (["case01_baseline", "case01_followup", "case02_baseline"], True),
    ],
)
def test_dicom_headers_count_unless_folders_speak_of_several_studies_of_a_patient(names, doubted):
    scans = [Named(name, told=name) for name in names]
    assert bool(grouped(scans, "dicom", ArchiveOptions()).refusal) == doubted
