"""Volumes that differ in spacing, depth and direction in one dataset, and lesions that fit into few of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.commands.audit import main as audit
from nnunet_difflung.commands.augment import main
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.injection.manifest import read_manifest
from tests.support.commands import ONE_FOLD_FAST, prepared, synthetic_arrays
from tests.support.tiny import make_dataset, tree_hashes

RUN = [*ONE_FOLD_FAST, "--steps", "2"]
_OBLIQUE = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]).ravel().tolist()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    return prepared(tmp_path, monkeypatch)


def rewritten(folder: Path, patient: int, spacing=None, slices: slice = slice(None), direction=None) -> None:
    """Writes a case anew with another (z, y, x) spacing, fewer slices or another direction."""
    name = f"lung_{patient:03d}"
    for path in (folder / "imagesTr" / f"{name}_0000.nii.gz", folder / "labelsTr" / f"{name}.nii.gz"):
        before = sitk.ReadImage(str(path))
        image = sitk.GetImageFromArray(sitk.GetArrayFromImage(before)[slices])
        image.SetOrigin(before.GetOrigin())
        image.SetSpacing(spacing[::-1] if spacing else before.GetSpacing())
        image.SetDirection(direction or before.GetDirection())
        sitk.WriteImage(image, str(path), True)


@pytest.mark.parametrize("options", [[], ["--method", "copy_paste"], ["--neighbours", "0"], ["--box", "10"]], ids=str)
def test_volumes_that_differ_are_painted_and_removed(folders, options):
    folder = make_dataset(folders[0], patients=8, volumes=True, depth=12, size=48)
    rewritten(folder, 2, spacing=(1.0, 0.5, 0.5))
    rewritten(folder, 3, slices=slice(5, 6))
    rewritten(folder, 4, direction=_OBLIQUE)
    rewritten(folder, 5, slices=slice(4, 6))
    rewritten(folder, 6, spacing=(0.7, 0.9, 0.7))
    rewritten(folder, 7, slices=slice(0, 5), spacing=(8.0, 1.2, 1.2))
    before = tree_hashes(folder)
    main([*RUN, "--max-synthetic", "60", "--target-share", "emphysema=0.3", "ILD=0.3", *options])
    cases, raw = read_manifest(folder)["cases"], open_raw_dataset("801")
    assert len(cases) >= 3
    hosts = {record["host"] for record in cases.values()}
    assert len(hosts) >= 3
    for key, record in cases.items():
        image, label = synthetic_arrays(raw, key, folder)
        host, of_host = raw.read_image(record["host"])
        box = tuple(slice(*ends) for ends in record.get("box", [[None, None]] * 3))
        host, real = host[(slice(None), *box)], raw.read_label(record["host"])[0][box]
        assert image.shape == host.shape
        changed = label != real
        assert changed.any()
        same = np.setdiff1d(np.arange(len(label)), record["slices"])
        assert np.array_equal(image[:, same], host[:, same])
        assert not changed[same].any()
        written = sitk.ReadImage(str(folder / "imagesTr" / f"{key}_0000.nii.gz"))
        assert written.GetSpacing()[::-1] == pytest.approx(of_host["spacing"])
    assert audit(["-d", "801"]) == 0
    remove(["-d", "801"])
    assert tree_hashes(folder) == before


def test_a_lesion_larger_than_any_host_is_left_out_and_the_plan_says_so(folders, capsys):
    folder = make_dataset(folders[0], patients=6, volumes=True, depth=12, size=48, emphysema_every=20)
    for patient in range(2, 7):
        rewritten(folder, patient, slices=slice(3, 5))
    path = folder / "labelsTr" / "lung_001.nii.gz"
    image = sitk.ReadImage(str(path))
    label = sitk.GetArrayFromImage(image)
    label[1:-1][label[1:-1] > 0] = 2  # nearly all of its lung
    changed = sitk.GetImageFromArray(label)
    changed.CopyInformation(image)
    sitk.WriteImage(changed, str(path), True)
    main([*RUN, "-f", "1", "--method", "copy_paste", "--dry-run", "--max-synthetic", "60"])
    said = capsys.readouterr().out
    assert "emphysema: the plan reaches" in said
    assert "no host has room for more where real lesions of the class lie" in said


def _turned(folder: Path, patient: int, code: str) -> None:
    """Stores a case in other directions; its voxels stay where they are."""
    name = f"lung_{patient:03d}"
    for path in (folder / "imagesTr" / f"{name}_0000.nii.gz", folder / "labelsTr" / f"{name}.nii.gz"):
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), code), str(path), True)


@pytest.mark.parametrize(
    ("codes", "said"),
    [
        (
            {3: "LPI", 5: "RAS"},
            "lung_003, lung_005 (feet, back, left, in most cases head, back, left)",
        ),
        (
            dict.fromkeys(range(1, 7), "PIR"),
            "lung_001, lung_002, lung_003 and 3 more (right, feet, back), whose slices are not axial",
        ),
    ],
    ids=["mixed", "sagittal"],
)
def test_volumes_stored_in_other_directions_are_named_with_a_remedy_that_works(folders, capsys, codes, said):
    folder = make_dataset(folders[0], patients=6, volumes=True, depth=12, size=48)
    words = [*RUN, "--method", "copy_paste", "--dry-run"]
    main(words)
    assert "lead towards" not in capsys.readouterr().out
    for patient, code in codes.items():
        _turned(folder, patient, code)
    main(words)
    out = capsys.readouterr()
    assert said in " ".join((out.out + out.err).split())
    path = folder / "dataset.json"
    remedy = '"overwrite_image_reader_writer": "SimpleITKIOWithReorient"'
    assert remedy in " ".join((out.out + out.err).split())
    path.write_text(path.read_text().replace("{", f"{{{remedy},", 1))
    main(words)
    out = capsys.readouterr()
    assert "lead towards" not in out.out + out.err
    assert "not axial" not in out.out + out.err


def test_single_slices_among_volumes_are_named(folders, capsys):
    folder = make_dataset(folders[0], patients=5, volumes=True, depth=12, size=48)
    main([*RUN, "--dry-run"])
    assert "cannot be compared" not in "".join(capsys.readouterr())
    for patient in (2, 3):
        rewritten(folder, patient, slices=slice(5, 6))
    main([*RUN, "--dry-run"])
    said = " ".join("".join(capsys.readouterr()).split())
    assert "2 cases of Dataset801_Tiny with a pathology are single slices (lung_002, lung_003)" in said
    assert "make a dataset of the slices and one of the volumes" in said


def test_slices_of_one_value_below_labels_of_lung_are_named(folders, capsys):
    folder = make_dataset(folders[0], patients=5, volumes=True, depth=12, size=48)
    words = [*RUN, "--method", "copy_paste", "--dry-run"]
    main(words)
    assert "single value" not in "".join(capsys.readouterr())
    for patient, blank in ((2, [5, 6]), (4, [3])):
        path = folder / "imagesTr" / f"lung_{patient:03d}_0000.nii.gz"
        before = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(before)
        array[blank] = -1024
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(before)
        sitk.WriteImage(image, str(path), True)
    main(words)
    said = " ".join("".join(capsys.readouterr()).split())
    assert "2 cases of Dataset801_Tiny have slices that hold a single value" in said
    assert "lung_002 (z 5, 6), lung_004 (z 3), counted from 0 (missing slices may have been filled up); export" in said
    assert said.count("single value") == 1
