"""``difflung_convert`` on volumes: slices that were not looked at, segments, label maps whose image is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import yaml

from nnunet_difflung.dataset_conversion.convert import entry
from tests.support.archives import chest, like, write_volumes

pytestmark = pytest.mark.usefixtures("raw_folder", "unverified")

HU = [chest(k)[0] for k in range(3)]
LESION = np.zeros(HU[0].shape, np.uint8)
LESION[1:3, 28:34, 18:24] = 1


@pytest.fixture
def run(tmp_path, capsys):
    """Runs the command on ``archive``; returns its exit code and what it printed."""

    def go(*options: str, mapping: str | None = None) -> tuple[int, str]:
        path = tmp_path / "map.yaml"
        if mapping is not None:
            path.write_text(mapping)
        words = ["-i", str(tmp_path / "archive"), "--mapping", str(path), "-np", "1", *options]
        if "--list" not in options:
            words += ["-d", "810", "--name", "Mine", "--as", "volumes"]
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            entry(words)
        printed = capsys.readouterr()
        return int(stop.value.code or 0), printed.out + printed.err

    return go


def write(folder: Path, label: np.ndarray, **metadata: str) -> None:
    for number, image in enumerate(HU, 1):
        for part, array in (("images", image), ("labels", label)):
            (folder / part).mkdir(parents=True, exist_ok=True)
            volume = like(array)
            if part == "labels":
                for key, text in metadata.items():
                    volume.SetMetaData(key, text)
            sitk.WriteImage(volume, str(folder / part / f"p{number}.nrrd"))


def label_of(tmp_path, case: str) -> np.ndarray:
    path = tmp_path / "nnUNet_raw" / "Dataset810_Mine" / "labelsTr" / f"{case}.nii.gz"
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def test_slices_that_were_not_looked_at(tmp_path, run):
    label = np.where(np.arange(len(LESION))[:, None, None] < 3, LESION.astype(np.int16), -1).astype(np.int16)
    write(tmp_path / "archive", label)
    code, text = run(mapping='labels:\n  tumour: ["label.*"]\n')
    assert code == 2
    assert "no label for 'value -1'; add it to" in text
    assert "ignore_label" in text
    code, text = run(mapping='labels:\n  tumour: [".*"]\n')
    assert code == 2
    assert "archive, patient p1: structure 'value -1' is matched by tumour" in text
    assert run(mapping='labels:\n  tumour: ["labels"]\nignore_label: ["value -1"]\n')[0] == 0
    found = label_of(tmp_path, "p1")
    assert (found == np.where(label == -1, 2, label)).all()


def test_the_mapping_that_list_writes_converts_segments_with_odd_names(tmp_path, run):
    label = LESION.copy()
    label[1:3, 28:34, 30:36] = 2
    names = {"Segment0_Name": "no", "Segment0_LabelValue": "1", "Segment1_Name": "GTV+ (L)", "Segment1_LabelValue": "2"}
    write(tmp_path / "archive", label, **names)
    code, text = run("--list")
    assert code == 0
    assert "GTV+ (L) (3), no (3)" in text
    written = yaml.safe_load((tmp_path / "map.yaml").read_text())
    assert written["labels"]["no"] == ["no"]
    assert run()[0] == 0
    found = label_of(tmp_path, "p1")
    order = list(written["labels"])
    assert (found[label == 1] == order.index("no") + 1).all()
    assert (found[label == 2] == order.index("tumour") + 1).all()


def test_a_label_map_without_its_image_is_listed_and_refused(tmp_path, run):
    write(tmp_path / "archive", LESION)
    lost = tmp_path / "archive" / "labels" / "p1_2.nrrd"
    sitk.WriteImage(like(LESION), str(lost))
    code, text = run("--list")
    assert code == 0
    assert f"problem: {lost}: no image belongs to this label map" in text
    mapping = 'labels:\n  tumour: ["labels"]\n'
    code, text = run(mapping=mapping)
    assert code == 2
    assert f"{lost}: no image belongs to this label map" in text
    lost.rename(tmp_path / "elsewhere.nrrd")  # the remedy
    assert run(mapping=mapping)[0] == 0
    assert (label_of(tmp_path, "p1") == LESION).all()


def test_rounded_labels(tmp_path, run):
    write(tmp_path / "archive", (LESION * 0.998).astype(np.float32))
    mapping = 'labels:\n  tumour: ["labels"]\n'
    code, text = run(mapping=mapping)
    assert code == 2
    assert "--accept rounded-labels" in text
    assert run("--accept", "rounded-labels", mapping=mapping)[0] == 0
    assert (label_of(tmp_path, "p1") == LESION).all()


def test_notes_of_an_anonymous_conversion_name_nobody(tmp_path, run):
    direction = np.eye(3)
    direction[1, 2] = 2e-4
    for name in ("anna", "ben"):
        folder = tmp_path / "archive" / "site" / name
        folder.mkdir(parents=True)
        for part, array in (("ct", HU[0]), ("lesion", LESION)):
            sitk.WriteImage(like(array, direction=direction), str(folder / f"{part}.nrrd"))
    assert run("--anonymous", "--patient-pattern", "site/(.+)", mapping='labels:\n  tumour: ["lesion"]\n')[0] == 0
    folder = tmp_path / "nnUNet_raw" / "Dataset810_Mine"
    text = (folder / "conversion_report.json").read_text()
    assert "the axes of a file were made perpendicular" in text
    assert not {"anna", "ben", "site"} & set(re.findall("[a-z]+", text))


def test_a_listing_whose_reader_leaves_writes_the_mapping(tmp_path):
    write(tmp_path / "archive", LESION)
    reading, writing = os.pipe()
    os.close(reading)
    words = ["-i", str(tmp_path / "archive"), "--list", "--mapping", str(tmp_path / "map.yaml"), "-np", "1"]
    code = "from nnunet_difflung.dataset_conversion.convert import entry; import sys; entry(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, *words], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 141
    assert "Traceback" not in done.stderr
    assert yaml.safe_load((tmp_path / "map.yaml").read_text())["labels"]


def test_an_unknown_name_to_accept_is_refused_with_the_names(run):
    code, text = run("--accept", "moved", mapping="labels: {}\n")
    assert code == 2
    assert "'moved': expected moved-contours, other-series, " in text


def test_an_archive_whose_lungs_are_not_found_converts_as_the_message_says(tmp_path, run):
    write_volumes(tmp_path / "archive", 2)  # too few slices for a lung
    mapping = "labels:\n  normal_lung: []\n  tumour: ['label [123]']\nlung: threshold\n"
    code, text = run(mapping=mapping)
    assert code == 2
    assert "remove the label of normal lung from the mapping and set lung: none" in text
    assert run(mapping=mapping.replace("  normal_lung: []\n", "").replace("threshold", "none"))[0] == 0
