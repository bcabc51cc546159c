"""Changed copies keep format, geometry, dtype and every voxel outside the change, for each of nnU-Net's readers."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset.headers import grid_of
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.dataset.writing import (
    cast_like,
    copy_sidecar,
    lies_as_source,
    place_of,
    spacing_sidecar,
    write_changed_copy,
)
from nnunet_difflung.errors import BadInput
from tests.support.tiny import make_dataset

_OBLIQUE = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])
FAMILIES = {
    "slices nii.gz": {},
    "volumes nii.gz": {"volumes": True, "channels": 2},
    "float nrrd": {"volumes": True, "file_ending": ".nrrd", "dtype": "float32"},
    "mha oblique": {"file_ending": ".mha", "direction": _OBLIQUE, "volumes": True},
    "nibabel": {"volumes": True, "overwrite_image_reader_writer": "NibabelIO", "direction": np.diag([-1, 1, 1])},
    "nibabel reorient": {
        "volumes": True,
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
        "direction": np.diag([-1, 1, -1]),
    },
    "nibabel reorient, axes swapped": {
        "volumes": True,
        "overwrite_image_reader_writer": "NibabelIOWithReorient",
        "direction": np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]),
    },
    "sitk reorient": {
        "volumes": True,
        "overwrite_image_reader_writer": "SimpleITKIOWithReorient",
        "direction": np.diag([-1, -1, 1]),
    },
    "png": {"file_ending": ".png"},
    "png uint8": {"file_ending": ".png", "dtype": "uint8", "channels": 2},
    "tif 2d": {"file_ending": ".tif"},
    "tiff 3d": {"file_ending": ".tif", "volumes": True},
}


@pytest.fixture
def copied(raw_folder, tmp_path: Path, request):
    """(dataset, case, copies of its images with some voxels set to 100, where)."""
    make_dataset(raw_folder, patients=2, slices=1, size=(20, 24), **FAMILIES[request.param])
    raw = open_raw_dataset("801")
    identifier = sorted(raw.cases)[0]
    case = raw.cases[identifier]
    image, _ = raw.read_image(identifier)
    where = np.zeros(image.shape[1:], bool)
    where[-1, 3:7, 5:11] = True
    targets = [str(tmp_path / f"difflung_x_{c:04d}{raw.dataset_json['file_ending']}") for c in range(len(case.images))]
    copy_sidecar(spacing_sidecar(case.images[0], True, raw.reader), tmp_path / "difflung_x.json")
    write_changed_copy(case.images, targets, np.full_like(image, 100.4), where, raw.reader)
    return raw, case, targets, where


@pytest.mark.parametrize("copied", FAMILIES, indirect=True)
def test_only_the_chosen_voxels_change(copied):
    raw, case, targets, where = copied
    before, properties = raw.reader().read_images(case.images)
    after, new_properties = raw.reader().read_images(targets)
    assert np.array_equal(after[:, ~where], before[:, ~where])
    expected = 100.4 if raw.dataset_json["file_ending"] == ".nrrd" else 100
    assert np.allclose(after[:, where], expected)
    assert not np.allclose(before[:, where], expected)
    assert list(properties["spacing"]) == list(new_properties["spacing"])


@pytest.mark.parametrize("copied", FAMILIES, indirect=True)
def test_the_file_keeps_dtype_and_geometry(copied):
    _, case, targets, _ = copied
    for source, target in zip(case.images, targets, strict=True):
        if source.endswith((".nii.gz", ".nrrd", ".mha")):
            a, b = sitk.ReadImage(source), sitk.ReadImage(target)
            assert a.GetPixelID() == b.GetPixelID()
            assert a.GetSize() == b.GetSize()
            for get in ("GetSpacing", "GetOrigin", "GetDirection"):
                assert getattr(a, get)() == pytest.approx(getattr(b, get)(), abs=1e-6)
        else:
            from skimage import io

            a, b = io.imread(source), io.imread(target)
            assert a.dtype == b.dtype
            assert a.shape == b.shape
        if source.endswith(".nii.gz"):
            a, b = nibabel.load(source), nibabel.load(target)
            assert np.allclose(a.affine, b.affine, atol=1e-6)
            assert a.header.get_zooms() == b.header.get_zooms()
            assert a.header.get_data_dtype() == b.header.get_data_dtype()


def corrected(file: str, spacing: float = 1.0, origin: float = 0.0, turned: bool = False) -> None:
    """Writes an image anew, with voxels of another height, at another place, or with its slices turned by 180°."""
    image = sitk.ReadImage(file)
    image.SetSpacing((*image.GetSpacing()[:2], spacing * image.GetSpacing()[2]))
    image.SetOrigin((origin + image.GetOrigin()[0], *image.GetOrigin()[1:]))
    if turned:
        image.SetDirection((np.reshape(image.GetDirection(), (3, 3)) @ np.diag([-1, -1, 1])).ravel().tolist())
    sitk.WriteImage(image, file, True)


@pytest.mark.parametrize("change", [{"spacing": 10.0}, {"origin": 4.0}, {"turned": True}], ids=lambda c: next(iter(c)))
@pytest.mark.parametrize("copied", FAMILIES, indirect=True)
def test_a_copy_lies_as_its_source_until_the_header_of_the_source_is_corrected(copied, change):
    raw, case, targets, _ = copied
    source, copy, place = case.images[0], Path(targets[0]), place_of(case.images[0], raw.reader)
    assert lies_as_source(copy, source, raw.reader)
    if source.endswith((".nii.gz", ".nrrd", ".mha")):
        corrected(source, **change)
        assert place_of(source, raw.reader) != place
        assert not lies_as_source(copy, source, raw.reader)
        copy.write_bytes(b"half written")
        assert lies_as_source(copy, source, raw.reader), "it is not known"
    elif sidecar := spacing_sidecar(source, True, raw.reader):
        sidecar.write_text('{"spacing": [9, 9, 9]}')
        assert not lies_as_source(copy, source, raw.reader)


@pytest.mark.parametrize(
    "copied", [n for n, of in FAMILIES.items() if of.get("volumes") and of.get("file_ending") != ".tif"], indirect=True
)
def test_a_box_lies_in_its_source(copied, tmp_path):
    raw, case, _, where = copied
    image, _ = raw.read_image(case.identifier)
    targets = [str(tmp_path / f"box_{channel}{Path(file).suffix}") for channel, file in enumerate(case.images)]
    targets = [target.replace(".gz", ".nii.gz") for target in targets]
    box = (slice(1, len(image[0])), slice(2, 15), slice(3, 20))
    write_changed_copy(case.images, targets, image, where, raw.reader, box)
    assert lies_as_source(Path(targets[0]), case.images[0], raw.reader)
    assert not lies_as_source(Path(case.images[0]), targets[0], raw.reader), "the whole does not lie in its part"
    corrected(case.images[0], origin=0.3)
    assert not lies_as_source(Path(targets[0]), case.images[0], raw.reader)


def test_a_sheared_header_is_read_too(tmp_path):
    affine = np.array([[0.8, 0.1, 0, 5], [0, 0.8, 0, 6], [0, 0, 2, 7], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), affine), tmp_path / "sheared.nii.gz")
    grid = grid_of(tmp_path / "sheared.nii.gz")
    assert grid is not None
    assert (grid.size, grid.spacing[2], grid.origin) == ((4, 5, 6), 2.0, (5.0, 6.0, 7.0))
    assert grid.lies_in(grid)
    assert grid_of(tmp_path / "none.nii.gz") is None


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_scaled_nifti_keeps_every_value(raw_folder, tmp_path, reader):
    folder = make_dataset(raw_folder, patients=2, slices=1, size=16, overwrite_image_reader_writer=reader)
    for file in (folder / "imagesTr").glob("*.nii.gz"):
        stored = nibabel.load(file)
        stored = nibabel.Nifti1Image(np.asarray(stored.dataobj).astype(np.int16), stored.affine)
        stored.header.set_slope_inter(0.5, -3)
        stored.header["descrip"], stored.header["db_name"] = b"DOE^JANE", b"MRN1"
        stored.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"PatientName=DOE^JANE"))
        nibabel.save(stored, file)
    raw = open_raw_dataset("801")
    identifier, case = next(iter(raw.cases.items()))
    image, _ = raw.read_image(identifier)
    where = np.zeros(image.shape[1:], bool)
    where[0, 4, 4] = True
    target = str(tmp_path / "copy.nii.gz")
    write_changed_copy(case.images, [target], np.full_like(image, -900.0), where, raw.reader)
    after, _ = raw.reader().read_images([target])
    assert np.array_equal(after[:, ~where], image[:, ~where])
    assert np.allclose(after[:, where], -900)
    assert not any(name in gzip.decompress(Path(target).read_bytes()) for name in (b"DOE^JANE", b"MRN1"))


def test_rgb_png_holds_three_channels(raw_folder, tmp_path):
    from skimage import io

    folder = make_dataset(
        raw_folder, patients=2, slices=1, size=16, file_ending=".png", channel_names={"0": "R", "1": "G", "2": "B"}
    )
    rng = np.random.default_rng(0)
    for file in (folder / "imagesTr").glob("*.png"):
        io.imsave(file, rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), check_contrast=False)
    raw = open_raw_dataset("801")
    identifier, case = next(iter(raw.cases.items()))
    image, _ = raw.read_image(identifier)
    where = np.zeros(image.shape[1:], bool)
    where[0, 2:4] = True
    write_changed_copy(case.images, [str(tmp_path / "x.png")], image[::-1], where, raw.reader)
    after = io.imread(tmp_path / "x.png")
    before = io.imread(case.images[0])
    assert np.array_equal(after[2:4], before[2:4, :, ::-1])
    assert np.array_equal(after[~where[0]], before[~where[0]])


def test_casting_rounds_and_clips():
    assert cast_like(np.array([-1e6, -0.6, 0.4, 1e6]), np.dtype(np.int16)).tolist() == [-32768, -1, 0, 32767]
    assert cast_like(np.array([0.25]), np.dtype(np.float64)).tolist() == [0.25]


def test_sidecars_belong_to_3d_tiff_only(raw_folder):
    make_dataset(raw_folder, patients=2, file_ending=".tif", volumes=True, size=16, depth=5)
    raw = open_raw_dataset("801")
    case = next(iter(raw.cases.values()))
    assert spacing_sidecar(case.images[0], True, raw.reader).name == "lung_001.json"
    assert spacing_sidecar(case.label, False, raw.reader).parent.name == "labelsTr"
    shutil.rmtree(raw.folder)
    assert spacing_sidecar(case.label, False, raw.reader) is None


def test_a_reader_without_writer_is_named():
    class StrangeIO:
        pass

    with pytest.raises(BadInput, match="StrangeIO cannot be written"):
        write_changed_copy(["a"], ["b"], np.zeros((1, 1, 1, 1)), np.ones((1, 1, 1), bool), StrangeIO)


VOLUMES = [name for name, options in FAMILIES.items() if options.get("volumes")]


@pytest.mark.parametrize("copied", VOLUMES, indirect=True)
def test_a_part_of_a_volume_stays_where_it_is(copied, tmp_path):
    raw, case, targets, where = copied
    image, _ = raw.read_image(case.identifier)
    depth, height, width = where.shape
    box = (slice(max(0, depth - 2), depth), slice(1, height - 4), slice(3, width - 2))
    ending = raw.dataset_json["file_ending"]
    parts = [str(tmp_path / f"difflung_part_{c:04d}{ending}") for c in range(len(case.images))]
    copy_sidecar(spacing_sidecar(case.images[0], True, raw.reader), tmp_path / "difflung_part.json")
    write_changed_copy(case.images, parts, np.full_like(image, 100.4), where, raw.reader, box)
    whole, of_whole = raw.reader().read_images(targets)
    part, of_part = raw.reader().read_images(parts)
    assert np.array_equal(part, whole[(slice(None), *box)])
    assert list(of_part["spacing"]) == pytest.approx(list(of_whole["spacing"]))
    for one, other in zip(parts, targets, strict=True) if ending != ".tif" else ():
        a, b = sitk.ReadImage(one), sitk.ReadImage(other)
        assert a.GetPixelID() == b.GetPixelID()
        for index in np.random.default_rng(0).integers(0, a.GetSize(), (30, 3)).tolist():
            there = b.TransformPhysicalPointToIndex(a.TransformIndexToPhysicalPoint(index))
            assert a[index] == b[there]
