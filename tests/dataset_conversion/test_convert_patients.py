"""``difflung_convert`` and patients: asked for where files do not tell them, kept together, written and recorded."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.dataset_conversion.convert import entry
from nnunet_difflung.dataset_conversion.pipeline import patient as patient_module
from nnunet_difflung.dataset_conversion.pipeline.archive import MANIFEST
from nnunet_difflung.dataset_conversion.pipeline.patients import SCANS_APART, Patient, name_patients
from nnunet_difflung.errors import BadInput
from tests.support.archives import chest, like, write_slices, write_volumes

pytestmark = pytest.mark.usefixtures("raw_folder", "unverified")

VALUES = 'labels:\n  normal_lung: ["label 1"]\n  emphysema: ["label 2"]\n  ILD: ["label 3"]\n'
PIXELS = ("--pixel-spacing", "4")
STUDIES = [f"pat{number}_{year}" for number in (7, 8, 9) for year in (2019, 2021)]


class Result:
    """What a conversion printed and wrote."""

    def __init__(self, code: int, printed: str, error: str, folder: Path):
        self.code, self.printed, self.error, self.folder = code, printed, error, folder

    def json(self, name: str):
        return json.loads((self.folder / name).read_text())

    def patients(self) -> dict[str, str]:
        """Case → patient as written; no fold has a patient on both sides, and the dataset opens with these patients."""
        patients = self.json("patients.json")
        for fold in self.json("splits_final.json"):
            sides = [{patients[case] for case in fold[side]} for side in ("train", "val")]
            assert not sides[0] & sides[1]
        dataset = open_raw_dataset("810")
        assert dataset.patients == {case: patient for case, patient in patients.items() if case in dataset.cases}
        return patients


@pytest.fixture
def convert(tmp_path, capsys):
    def run(*options: str) -> Result:
        (tmp_path / "map.yaml").write_text(VALUES)
        words = ["-i", tmp_path / "archive", "--mapping", tmp_path / "map.yaml", "-d", 810, "--name", "Mine", "-np", 1]
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            entry([*map(str, words), *options])
        captured = capsys.readouterr()
        folder = tmp_path / "nnUNet_raw" / "Dataset810_Mine"
        return Result(int(stop.value.code or 0), captured.out, captured.err, folder)

    return run


def numbered_pictures(folder: Path, patients: int = 3, slices: int = 2) -> dict[str, str]:
    """``images/000.png`` …, a series of one patient after the other; name → patient."""
    write_slices(folder, patients, slices)
    truth = {}
    for number, image in enumerate(sorted((folder / "images").iterdir())):
        truth[f"{number:03d}"] = image.name[:2]
        image.rename(image.with_name(f"{number:03d}.png"))
        (folder / "masks" / image.name).rename(folder / "masks" / f"{number:03d}.png")
    return truth


def volumes(folder: Path, names: list[str]) -> None:
    for seed, name in enumerate(names):
        for part, array in zip(("ct", "label"), chest(seed), strict=True):
            path = folder / part / f"{name}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(like(array), str(path))


def test_numbered_pictures_are_refused_until_their_patients_are_listed(tmp_path, convert):
    truth = numbered_pictures(tmp_path / "archive")
    refused = convert(*PIXELS)
    assert refused.code == 2
    assert "the patients cannot be told from the 6 names of the pictures (such as '000')" in refused.error
    assert "--patients FILE" in refused.error
    assert not refused.folder.exists()
    rows = [f"images/{name}.png,{patient}" for name, patient in truth.items()]
    (tmp_path / "patients.csv").write_text("\n".join(["case,patient", *rows]))
    done = convert(*PIXELS, "--patients", str(tmp_path / "patients.csv"))
    assert done.code == 0
    assert done.patients() == {f"p{p}_s{z:03d}": f"p{p}" for p in (1, 2, 3) for z in (0, 1)}
    text = "6 slices of 3 patients (patients: from --patients patients.csv)"
    assert text in done.printed
    assert done.json(MANIFEST)["content"] == text
    assert str(tmp_path) not in done.json(MANIFEST)["command"]


def test_every_picture_is_a_patient_only_if_that_is_said(tmp_path, convert):
    numbered_pictures(tmp_path / "archive")
    done = convert(*PIXELS, "--patient-pattern", "(.+)")
    assert done.code == 0
    assert len(set(done.patients().values())) == 6
    assert "6 slices of 6 patients (patients: from --patient-pattern '(.+)')" in done.printed


def test_the_offered_option_works_when_pasted(tmp_path, convert):
    volumes(tmp_path / "archive", STUDIES)
    refused = convert("--as", "volumes")
    assert refused.code == 2
    assert not refused.folder.exists()
    lines = refused.error.splitlines()
    option = next(after for line, after in zip(lines, lines[1:], strict=False) if line.strip().startswith("3 patients"))
    done = convert("--as", "volumes", *shlex.split(option))
    assert done.code == 0
    assert done.patients() == {f"pat{p}_im{k:02d}": f"pat{p}" for p in (7, 8, 9) for k in (1, 2)}


def test_listing_shows_an_archive_whose_patients_are_not_known(tmp_path, convert):
    numbered_pictures(tmp_path / "archive")
    listed = convert("--list", "--mapping", str(tmp_path / "first.yaml"), *PIXELS)
    assert listed.code == 0
    assert "6 slices, whose patients are not known" in listed.printed
    assert "the patients cannot be told" in listed.printed
    assert "--patient-pattern '(.+)'" in listed.printed
    assert (tmp_path / "first.yaml").is_file()
    listed = convert("--list", *PIXELS, "--patient-pattern", "(..).*")
    assert "000 → 00" in listed.printed
    assert "cannot be told" not in listed.printed


@pytest.mark.parametrize("form", ["slices", "volumes"])
def test_scans_of_a_patient_stay_together_in_folds_and_in_the_test_part(tmp_path, convert, form):
    volumes(tmp_path / "archive", [name.replace("_", "/") for name in STUDIES])
    done = convert("--as", form, "--test", "pat8")
    assert "6 volumes of 3 patients (patients: from the names of the volumes)" in done.printed
    patients = done.patients()
    assert set(patients.values()) == {"pat7", "pat8", "pat9"}
    for part, expected in (("Tr", {"pat7", "pat9"}), ("Ts", {"pat8"})):
        files = [path.name.removesuffix(".nii.gz") for path in (done.folder / f"labels{part}").iterdir()]
        assert {patients[case] for case in files} == expected
        assert len(files) == len(expected) * (2 if form == "volumes" else 8)
    done = convert("--as", form, "--test-share", "0.3", "--overwrite")
    patients = done.patients()
    test = {patients[path.name.removesuffix(".nii.gz")] for path in (done.folder / "labelsTs").iterdir()}
    training = {patients[path.name.removesuffix(".nii.gz")] for path in (done.folder / "labelsTr").iterdir()}
    assert len(test) == 1
    assert not test & training


def test_an_interrupted_conversion_goes_on_and_a_new_scan_converts_its_patient_anew(tmp_path, convert, monkeypatch):
    volumes(tmp_path / "archive", [name.replace("_", "/") for name in STUDIES])
    real = patient_module.convert_patient

    def stopped(patient, *arguments):
        if patient.name == "pat9":
            raise KeyboardInterrupt
        return real(patient, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(patient_module, "convert_patient", stopped)
        assert convert("--as", "volumes").code == 130
    partial = tmp_path / "nnUNet_raw" / ".Dataset810_Mine.partial"
    written = {path.name: path.stat().st_mtime_ns for path in (partial / "imagesTr").iterdir()}
    volumes(tmp_path / "archive", ["pat7/2023"])
    done = convert("--as", "volumes")
    assert done.code == 0
    cases = done.patients()
    assert [case for case in cases if cases[case] == "pat7"] == ["pat7_im01", "pat7_im02", "pat7_im03"]
    kept = {name for name, when in written.items() if (done.folder / "imagesTr" / name).stat().st_mtime_ns == when}
    assert kept == {"pat8_im01_0000.nii.gz", "pat8_im02_0000.nii.gz"}


@pytest.mark.parametrize("by_earlier_version", [False, True])
def test_a_file_replaced_by_another_of_the_same_size_and_time_is_converted_anew(
    tmp_path, convert, monkeypatch, by_earlier_version
):
    volumes(tmp_path / "archive", ["pat7", "pat8", "pat9"])
    real = patient_module.convert_patient

    def stopped(patient, *arguments):
        if patient.name == "pat9":
            raise KeyboardInterrupt
        return real(patient, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(patient_module, "convert_patient", stopped)
        assert convert("--as", "volumes").code == 130
    partial = tmp_path / "nnUNet_raw" / ".Dataset810_Mine.partial"
    written = {path.name: path.stat().st_mtime_ns for path in (partial / "imagesTr").iterdir()}
    label, same = (tmp_path / "archive" / "label" / f"{name}.nii.gz" for name in ("pat7", "pat8"))
    before, content = label.stat(), label.read_bytes()
    other = bytearray(content)
    other[4] ^= 1  # the time in the header of gzip, so that the label map still can be read
    label.write_bytes(other)
    os.utime(label, ns=(before.st_atime_ns, before.st_mtime_ns))
    times = same.stat()
    same.write_bytes(same.read_bytes())  # a copy has another inode or time of change, but the same content
    os.utime(same, ns=(times.st_atime_ns, times.st_mtime_ns))
    if by_earlier_version:
        for path in (partial / ".progress").glob("*.json"):
            note = json.loads(path.read_text())
            path.write_text(json.dumps({key: note[key] for key in note if key not in ("keys", "hashes")}))
    done = convert("--as", "volumes")
    assert done.code == 0
    kept = {name for name, when in written.items() if (done.folder / "imagesTr" / name).stat().st_mtime_ns == when}
    unknown = {"pat7_0000.nii.gz"} if by_earlier_version else set()
    assert kept == {"pat8_0000.nii.gz", *unknown}
    assert not {"keys", "hashes", "stamp"} & set(done.json(MANIFEST)["patients"]["pat7"])


def test_scans_of_pictures_may_differ_in_size_and_their_slices_do_not_collide(tmp_path, convert):
    for name, columns in (("pat7/2019", 64), ("pat7/2021", 48), ("pat8/2019", 64)):
        write_slices(tmp_path / "made", 1)
        for path in sorted((tmp_path / "made").rglob("*.png")):
            from skimage import io

            place = tmp_path / "archive" / path.parent.name / name / path.name.replace("p1_", "")
            place.parent.mkdir(parents=True, exist_ok=True)
            io.imsave(place, io.imread(path)[:, :columns], check_contrast=False)
    done = convert(*PIXELS)
    assert done.code == 0, done.error
    assert done.patients() == {
        **dict.fromkeys(("pat7_s000", "pat7_s001", "pat7_s10000", "pat7_s10001"), "pat7"),
        **dict.fromkeys(("pat8_s000", "pat8_s001"), "pat8"),
    }
    image = sitk.ReadImage(str(done.folder / "imagesTr" / "pat7_s10001_0000.nii.gz"))
    assert image.GetSize()[0] == 48


def test_ids_that_would_be_the_same_are_refused():
    class Scan:
        pass

    with pytest.raises(BadInput, match="'p1' and 'p1_im02' would both be called p1_im02"):
        name_patients([("p1", Scan()), ("p1", Scan()), ("p1_im02", Scan())], anonymous=False)
    with pytest.raises(BadInput, match="'P1' and 'p1' would both be called p1"):
        name_patients([("p1", Scan()), ("P1", Scan())], anonymous=False)
    assert Patient("p1", "p1", (Scan(),)).case_id(0, SCANS_APART) == "p1_s10000"
    with pytest.raises(BadInput, match="at most 10000 slices"):
        Patient("p1", "p1", (Scan(), Scan())).case_id(0, SCANS_APART)


@pytest.mark.parametrize("how", ["--patients", "--patient-pattern"])
def test_anonymous_conversions_name_nobody_in_patients_json_and_the_record(tmp_path, convert, how):
    volumes(tmp_path / "archive", ["Miller_Ann_1", "Miller_Ann_2", "Smith_John_1"])
    (tmp_path / "Miller.json").write_text(
        json.dumps({"Miller_Ann_1": "Miller", "Miller_Ann_2.nii.gz": "Miller", "Smith_John_1": "Smith"})
    )
    value = str(tmp_path / "Miller.json") if how == "--patients" else "(Miller|Smith).*"
    done = convert("--as", "volumes", "--anonymous", how, value)
    assert done.code == 0, done.error
    assert done.patients() == {"p001_im01": "p001", "p001_im02": "p001", "p002": "p002"}
    written = "".join(path.read_text() for path in done.folder.glob("*.json")) + done.printed + done.error
    assert not [name for name in ("Miller", "Smith") if name in written]
    assert done.json(MANIFEST)["content"] == f"3 volumes of 2 patients (patients: from {how})"
    assert f"{how} ..." in done.json(MANIFEST)["command"]


def test_replacing_a_dataset_replaces_its_patients(tmp_path, convert):
    write_volumes(tmp_path / "archive", 3)
    assert set(convert("--as", "volumes").patients().values()) == {"p1", "p2", "p3"}
    shutil.rmtree(tmp_path / "archive")
    write_volumes(tmp_path / "archive", 2)
    assert set(convert("--as", "volumes", "--overwrite").patients().values()) == {"p1", "p2"}


def test_a_single_patient_is_warned_about(tmp_path, convert):
    volumes(tmp_path / "archive", ["pat7/2019", "pat7/2021"])
    done = convert("--as", "volumes")
    assert "2 volumes of 1 patient " in done.printed
    assert "Warning: with a single patient" in done.printed


def test_both_options_exclude_each_other(tmp_path, convert):
    assert convert("--patients", "a.csv", "--patient-pattern", "(.+)").code == 2


# ---- DICOM ----


def studies(folder: Path, *people: tuple[str, dict[str, str]]) -> None:
    """A folder for each study, with a CT and its structures; tags of each study replace those of ``write_ct``."""
    pytest.importorskip("highdicom")
    from tests.support.archives import structures
    from tests.support.dicom_files import outlines, write_ct, write_rtstruct

    for seed, (name, tags) in enumerate(people):
        image, label = chest(seed)

        def tagged(_, data, tags=tags):
            for tag, value in tags.items():
                setattr(data, tag, value)

        written = write_ct(folder / name / "ct", like(image.astype(np.float32)), name, change=tagged)
        drawn = {key: outlines(like(mask)) for key, mask in structures(label).items()}
        write_rtstruct(folder / name / "rs", written, drawn, change=lambda data, tags=tags: tagged(0, data, tags))


def person(patient_id: str, name: str = "SECRET^PATIENT", birth: str = "19010203") -> dict[str, str]:
    return {"PatientID": patient_id, "PatientName": name, "PatientBirthDate": birth}


NAMES = 'labels:\n  normal_lung: ["lungs?"]\n  emphysema: ["emph.*"]\n  ILD: ["ild"]\n'
DICOM = {  # studies; expected patients of the cases, or a part of the refusal
    "several studies with one PatientID": (
        [("pat7_2019", person("7")), ("pat7_2021", person("7")), ("pat8_2019", person("8"))],
        [2, 1],
    ),
    "PatientIDs in two spellings": ([("a1", person("P07")), ("a2", person("p07 ")), ("a3", person("P08"))], [2, 1]),
    "a PatientID for each study of a person": (
        [("a1", person("1", "Doe^A")), ("a2", person("2", "Doe^A^^")), ("a3", person("3", "Doe^B"))],
        [2, 1],
    ),
    "one name for all, set by an anonymisation": ([("a1", person("1")), ("a2", person("2"))], [1, 1]),
    "no PatientID, folders of patients": ([("case_01", person("")), ("case_02", person(""))], [1, 1]),
    "ANON for all, folders of patients": ([("case_01", person("ANON")), ("case_02", person("Anon"))], [1, 1]),
    "no PatientID, folders of studies": (
        [("pat7_2019", person("")), ("pat7_2021", person("")), ("pat8_2019", person(""))],
        "3 names of the DICOM folders",
    ),
    "one PatientID, folders of years": ([("2019", person("7")), ("2021", person("7"))], "such as '2019'"),
    "a PatientID for each study, folders of studies": (
        [("pat7_2019", person("1")), ("pat7_2021", person("2")), ("pat8_2019", person("3"))],
        "'pat7_2019' and 'pat7_2021' may be the same",
    ),
    "a PatientID for each study, nested folders": (
        [("pat7/2019", person("1")), ("pat7/2021", person("2")), ("pat8/2019", person("3"))],
        "'pat7/2019' and 'pat7/2021' differ, but the folders are of one patient",
    ),
}


@pytest.mark.parametrize(("people", "expected"), DICOM.values(), ids=DICOM)
def test_dicom_headers_tell_patients_or_the_folders_have_to(tmp_path, convert, people, expected):
    studies(tmp_path / "archive", *people)
    (tmp_path / "names.yaml").write_text(NAMES)
    options = ("--mapping", str(tmp_path / "names.yaml"), "--as", "volumes", "--allow-missing")
    done = convert(*options)
    if isinstance(expected, str):
        assert done.code == 2
        assert expected in done.error
        assert "--patient-pattern '(.+)'" in done.error
        assert "SECRET" not in done.error
        done = convert(*options, "--patient-pattern", "(.+?)[/_].*" if len(people) > 2 else "(.+)")
        expected = [2, 1] if len(people) > 2 else [1, 1]
    assert done.code == 0, done.error
    patients = list(done.patients().values())
    assert sorted((patients.count(name) for name in set(patients)), reverse=True) == expected
    assert "SECRET" not in done.printed + done.error


def test_every_series_of_a_patient_that_was_drawn_on_is_a_case_unless_one_is_chosen(tmp_path, convert):
    studies(tmp_path / "archive", *((name, person(name[:2])) for name in ("p1/early", "p1/late", "p2/only")))
    (tmp_path / "names.yaml").write_text(NAMES)
    options = ("--mapping", str(tmp_path / "names.yaml"), "--as", "volumes", "--allow-missing")
    done = convert(*options)
    assert done.patients() == {"p1_im01": "p1", "p1_im02": "p1", "p2": "p2"}
    made = {"p1_im01": chest(0), "p1_im02": chest(1), "p2": chest(2)}
    for case, (image, label) in made.items():
        written = sitk.ReadImage(str(done.folder / "imagesTr" / f"{case}_0000.nii.gz"))
        classes = sitk.ReadImage(str(done.folder / "labelsTr" / f"{case}.nii.gz"))
        assert np.abs(sitk.GetArrayFromImage(written) - image).max() <= 0.5
        assert (sitk.GetArrayFromImage(classes) == label).mean() > 0.999
    done = convert(*options, "--series", "p1/late/ct", "--overwrite")
    assert done.patients() == {"p1": "p1", "p2": "p2"}, "a patient with one series has no choice"


def test_a_patients_file_says_which_dicom_folders_are_of_one_patient(tmp_path, convert):
    studies(tmp_path / "archive", *((name, person("")) for name in ("x", "y", "z")))
    (tmp_path / "names.yaml").write_text(NAMES)
    (tmp_path / "patients.csv").write_text("case;patient\nx;A\ny;A\nz;B\n")
    options = ("--mapping", str(tmp_path / "names.yaml"), "--as", "volumes", "--allow-missing")
    assert convert(*options).code == 2
    done = convert(*options, "--patients", str(tmp_path / "patients.csv"))
    assert done.patients() == {"A_im01": "A", "A_im02": "A", "B": "B"}
    assert "3 scans of 2 patients (patients: from --patients patients.csv)" in done.printed


def test_a_slice_without_a_position_is_missed_in_each_of_several_drawn_series(tmp_path, convert):
    studies(tmp_path / "archive", *((name, person(name[:2])) for name in ("p1/early", "p1/late", "p2/only")))
    (tmp_path / "names.yaml").write_text(NAMES)
    last = sorted((tmp_path / "archive" / "p1" / "late" / "ct").iterdir())[-1]
    import pydicom

    data = pydicom.dcmread(last)
    del data.ImagePositionPatient
    data.save_as(last)
    done = convert("--mapping", str(tmp_path / "names.yaml"), "--as", "volumes", "--allow-missing")
    assert done.code == 2
    assert f"{last}: a slice of the CT series without a position" in done.error


@pytest.mark.parametrize("root", ["archive/study", "archive/study/hospital"])
def test_one_patient_id_below_a_common_folder_is_told_with_the_remedy(tmp_path, convert, root):
    studies(tmp_path / root, *((name, person("SAME")) for name in ("x", "y", "z")))
    (tmp_path / "names.yaml").write_text(NAMES)
    options = ("--mapping", str(tmp_path / "names.yaml"), "--as", "volumes", "--allow-missing")
    done = convert(*options)
    assert len(set(done.json("patients.json").values())) == 1
    assert "if the folders in it are patients, give that folder with -i" in done.printed
    done = convert(*options, "-i", str(tmp_path / root), "--patient-pattern", "(.+)", "--overwrite")
    assert sorted(done.patients().values()) == ["x", "y", "z"]
    assert "give that folder with -i" not in done.printed
