"""What a folder holds is judged by content in the same way by all kinds of archives, with hidden files and links."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

from nnunet_difflung.dataset_conversion.archive.find import find_patients, kind_of  # noqa: E402
from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions  # noqa: E402
from nnunet_difflung.dataset_conversion.convert import entry, main  # noqa: E402
from nnunet_difflung.dataset_conversion.dicom import headers  # noqa: E402
from nnunet_difflung.errors import BadInput  # noqa: E402
from tests.support.archives import write_dicom, write_slices, write_volumes  # noqa: E402
from tests.support.dicom_files import blank  # noqa: E402

NAMES = 'labels:\n  normal_lung: ["lungs"]\n  emphysema: ["emphysema"]\n  ILD: ["ild"]\n'
VALUES = 'labels:\n  normal_lung: ["label 1"]\n  emphysema: ["label 2"]\n  ILD: ["label 3"]\n'


def convert(tmp_path: Path, archive: Path, mapping: str, *options: str) -> Path:
    (tmp_path / "map.yaml").write_text(mapping)
    words = ["-i", str(archive), "--mapping", str(tmp_path / "map.yaml"), "-d", "810", "--name", "Mine", "-np", "1"]
    main([*words, "--as", "volumes", *options])
    return tmp_path / "nnUNet_raw" / "Dataset810_Mine"


def without_preamble(path: Path, implicit: bool, little: bool) -> None:
    data = pydicom.dcmread(path)
    if not little and "PixelData" in data:
        data.PixelData = np.frombuffer(data.PixelData, "<u2").astype(">u2").tobytes()
    pydicom.Dataset(data).save_as(path, implicit_vr=implicit, little_endian=little)


@pytest.mark.parametrize("implicit", [True, False], ids=["implicit", "explicit"])
@pytest.mark.parametrize("kind", [None, "dicom"])
def test_dicom_without_a_preamble_is_found(tmp_path, implicit, kind):
    made = write_dicom(tmp_path / "archive", 1)
    for path in (tmp_path / "archive").rglob("*"):
        if path.is_file():
            without_preamble(path, implicit, True)
    found, (source,), _ = find_patients(tmp_path / "archive", ArchiveOptions(kind))
    assert found == "dicom"
    assert source.listing().structures == ("Emphysema", "ILD", "Lungs")
    assert np.array_equal(sitk.GetArrayFromImage(source.load().image), made["p1"][0])


def test_big_endian_without_a_preamble_is_recognised(tmp_path):
    write_dicom(tmp_path, 1, names=())
    path = next(path for path in (tmp_path / "p1" / "ct").iterdir())
    without_preamble(path, False, False)
    assert headers.looks_like_dicom(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\x00\x05\x00",
        b"\x08\x00" * 100,
        b"\x02\x00\x00\x00" + b"x" * 200,
        bytes(200),
        b"PK\x03\x04" + bytes(300),
        b"{" * 200,
        bytes(range(200)),
    ],
)
def test_other_files_are_not_taken_for_dicom(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert not headers.looks_like_dicom(tmp_path / "file")


def test_names_and_endings_do_not_matter(tmp_path):
    made = write_dicom(tmp_path / "archive", 1)
    files = sorted(path for path in (tmp_path / "archive" / "p1" / "ct").iterdir())
    for number, (path, name) in enumerate(zip(files, ("IM0001", "1.IMA", "x.dat", "1.2.840.113"), strict=True)):
        path.rename(path.with_name(f"{number}{name}" if number else name))
    blank(headers.DICOMDIR, "CT", "1.2", "x").save_as(tmp_path / "archive" / "DICOMDIR", enforce_file_format=True)
    (tmp_path / "archive" / "AUTORUN.INF").write_text("no image")
    kind, (source,), _ = find_patients(tmp_path / "archive", ArchiveOptions())
    assert kind == "dicom"
    assert np.array_equal(sitk.GetArrayFromImage(source.load().image), made["p1"][0])


def test_an_archive_of_a_dicomdir_alone_is_refused(tmp_path, capsys):
    (tmp_path / "archive").mkdir()
    blank(headers.DICOMDIR, "CT", "1.2", "x").save_as(tmp_path / "archive" / "DICOMDIR", enforce_file_format=True)
    with pytest.raises(SystemExit) as stop:
        entry(["-i", str(tmp_path / "archive"), "--list", "--mapping", str(tmp_path / "map.yaml")])
    assert stop.value.code == 2
    assert "no patient was found" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [None, "dicom"])
def test_packed_files_are_named(tmp_path, kind):
    write_dicom(tmp_path, 1)
    for path in list((tmp_path / "p1" / "ct").iterdir())[:2]:
        path.with_suffix(".dcm.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    with pytest.raises(BadInput, match=r"dcm\.gz: DICOM compressed with gzip \(2 files\); unpack such files"):
        find_patients(tmp_path, ArchiveOptions(kind))


def test_without_images_the_message_says_what_was_passed_over(tmp_path):
    for name in (".p1.nii.gz", "data.zip", "readme.txt"):
        (tmp_path / name).write_text("x")
    (tmp_path / "ct.nii.gz").symlink_to("gone")
    with pytest.raises(BadInput) as caught:
        kind_of(tmp_path)
    assert "no images found among 2 files (1 hidden, such as .p1.nii.gz; 1 broken links, such as ct.nii.gz; " in str(
        caught.value
    )
    assert "1 packed, such as data.zip" in str(caught.value)


def test_a_mixed_archive_is_counted_and_the_kind_that_was_not_chosen_is_told(folders, unverified, tmp_path, capsys):
    write_volumes(tmp_path / "archive")
    write_slices(tmp_path / "archive" / "pictures", 2)
    write_dicom(tmp_path / "archive" / "dicom", 1)
    with pytest.raises(BadInput) as caught:
        kind_of(tmp_path / "archive")
    for part in ("5 files for --kind dicom", "6 files for --kind volumes", "8 files for --kind slices"):
        assert part in str(caught.value)
    convert(tmp_path, tmp_path / "archive", VALUES, "--kind", "volumes")
    assert "Note: left out 8 files of another kind of archive, such as pictures/" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["dicom", "volumes"])
def test_links_and_hidden_files_are_treated_alike_by_all_kinds(folders, unverified, tmp_path, capsys, kind):
    real = tmp_path / "Übungs daten" / "größe 1"
    write, mapping = (write_dicom, NAMES) if kind == "dicom" else (write_volumes, VALUES)
    made = write(real, 2)
    for path in [path for path in real.rglob("*") if path.is_file()][:2]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7" + bytes(200))
    for hidden in ("__MACOSX", ".ipynb_checkpoints", "@eaDir"):
        shutil.copytree(next(path for path in real.iterdir() if path.is_dir()), tmp_path / "copy", dirs_exist_ok=True)
        (tmp_path / "copy").rename(real / hidden)
    (real / "again").symlink_to(real)
    (real / "lost.nii.gz").symlink_to("nowhere")
    (real / "Thumbs").touch()
    (tmp_path / "mein archiv").symlink_to(real)
    folder = convert(tmp_path, tmp_path / "mein archiv", mapping)
    out = capsys.readouterr().out
    for part in (
        "5 hidden files and folders",
        "1 broken links, such as lost.nii.gz",
        "1 links to folders",
        "1 empty files, such as Thumbs",
    ):
        assert part in out, out
    for name, (image, _) in made.items():
        written = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "imagesTr" / f"{name}_0000.nii.gz")))
        assert np.array_equal(written, image)
    dropped = json.loads((folder / "conversion_report.json").read_text())["changes"]["dropped"]
    assert dropped["hidden files and folders"] == {"count": 5, "patients": 0}


@pytest.mark.parametrize("kind", [None, "dicom"])
def test_a_file_that_cannot_be_opened_is_refused(tmp_path, monkeypatch, kind):
    write_dicom(tmp_path, 1)
    real = open

    def denied(path, *args, **options):
        if Path(path).name == "00x":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(headers, "open", denied, raising=False)
    with pytest.raises(BadInput, match=r"00x cannot be opened \(Permission denied\); make the file readable"):
        find_patients(tmp_path, ArchiveOptions(kind))
