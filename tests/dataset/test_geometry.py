"""Image, label and channels lie on one grid, with voxels of a size that a CT can have; else the case is refused."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset.cache import build_cache, cached_image
from nnunet_difflung.dataset.contents import FileHashes
from nnunet_difflung.dataset.headers import impossible_voxels
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.dataset.reading import read_case
from nnunet_difflung.errors import BadInput
from tests.support.tiny import make_dataset

CASE = "lung_001"


def rewritten(folder: Path, names: list[str], spacing=None, origin=None, direction=None) -> None:
    """Writes files anew with other headers; spacing and origin are (x, y, z)."""
    for name in names:
        image = sitk.ReadImage(str(folder / name))
        image.SetSpacing(spacing or image.GetSpacing())
        image.SetOrigin(origin or image.GetOrigin())
        image.SetDirection(direction or image.GetDirection())
        sitk.WriteImage(image, str(folder / name))


def turned(degrees: float) -> list[float]:
    """Direction cosines of a volume turned in its slices."""
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]).ravel().tolist()


def read(raw_folder):
    raw = open_raw_dataset("801")
    return read_case(raw, raw.cases[CASE])


@pytest.mark.parametrize("spacing", [(0.0008, 0.0008, 0.005), (0.8, 0.8, 500.0)], ids=["metres", "half a metre"])
def test_voxels_of_a_size_that_no_ct_has_are_refused(raw_folder, spacing):
    """Lesions are moved by their size in mm, so that one such case would ask for terabytes."""
    folder = make_dataset(raw_folder, patients=2, volumes=True, depth=4, size=16)
    both = [f"imagesTr/{CASE}_0000.nii.gz", f"labelsTr/{CASE}.nii.gz"]
    rewritten(folder, both, spacing)
    with pytest.raises(BadInput, match=rf"{CASE}_0000.nii.gz: voxels of .* mm .*; expected 0.01 to 100 mm"):
        read(raw_folder)


def test_the_thickness_of_a_single_slice_may_be_anything(raw_folder):
    folder = make_dataset(raw_folder, patients=2, volumes=True, depth=1, size=16)
    rewritten(folder, [f"imagesTr/{CASE}_0000.nii.gz", f"labelsTr/{CASE}.nii.gz"], (0.8, 0.8, 999.0))
    assert read(raw_folder)[2].spacing[0] == 999


@pytest.mark.parametrize(
    ("change", "said"),
    [({"origin": (50.0, 60.0, 70.0)}, "origin"), ({"direction": turned(90)}, "direction")],
    ids=["origin", "direction"],
)
def test_a_channel_that_lies_elsewhere_is_refused(raw_folder, change, said):
    """nnU-Net's readers print a warning and go on."""
    folder = make_dataset(raw_folder, patients=2, volumes=True, depth=4, size=16, channels=2)
    read(raw_folder)
    rewritten(folder, [f"imagesTr/{CASE}_0001.nii.gz"], **change)
    with pytest.raises(
        BadInput, match=rf"{CASE}_0001.nii.gz does not lie where the first channel, .*{said} .* instead of"
    ):
        read(raw_folder)


def header_edited(path: Path, *edits: tuple[int, str, tuple[float, ...]]) -> None:
    """Writes numbers into a NIfTI header, as (byte, format, numbers)."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    for start, form, numbers in edits:
        struct.pack_into(form, content, start, *numbers)
    path.write_bytes(gzip.compress(bytes(content), 1))


def z_of_header(folder: Path, size: float, sform: float | None = None) -> None:
    """Writes the z size into the headers of image and label, and that of the sform, or none."""
    rows = (0.8, 0, 0, 0, 0, 0.8, 0, 0, 0, 0, sform or 0, 0)
    forms = (0, 0) if sform is None else (0, 1)
    for name in (f"imagesTr/{CASE}_0000.nii.gz", f"labelsTr/{CASE}.nii.gz"):
        header_edited(folder / name, (76 + 3 * 4, "<f", (size,)), (252, "<2h", forms), (280, "<12f", rows))


@pytest.mark.parametrize("size", [0.0, float("nan")])
@pytest.mark.parametrize("sform", [None, 5.0])
def test_a_thickness_that_readers_silently_replace_is_refused(raw_folder, size, sform):
    folder = make_dataset(raw_folder, patients=2, volumes=True, depth=4, size=16)
    z_of_header(folder, size, sform)
    with pytest.raises(BadInput, match=rf"{CASE}_0000.nii.gz: .* along z is {size:g} mm, of which .* makes 1 mm"):
        read(raw_folder)


def test_a_thickness_of_0_is_believed_where_it_matters_not(raw_folder):
    folder = make_dataset(raw_folder, patients=2, volumes=True, depth=4, size=16)
    z_of_header(folder, 0.0, sform=1.0)  # what the reader takes
    assert read(raw_folder)[2].spacing[0] == 1
    for path in (folder / "imagesTr").iterdir():
        assert impossible_voxels(path.with_suffix(".mha"), (1, 1, 1)) == ""


def test_a_thickness_of_0_of_a_single_slice_is_read(raw_folder):
    folder = make_dataset(raw_folder, patients=2, volumes=True, depth=1, size=16)
    z_of_header(folder, 0.0)
    assert read(raw_folder)[2].shape == (1, 16, 16)


@pytest.mark.parametrize("depth", [1, 4])
def test_a_voxel_size_that_is_no_number_is_the_images_fault_not_the_labels(raw_folder, depth):
    folder = make_dataset(
        raw_folder, patients=2, volumes=True, depth=depth, size=16, overwrite_image_reader_writer="NibabelIO"
    )
    z_of_header(folder, float("nan"))
    with pytest.raises(BadInput, match=rf"{CASE}_0000.nii.gz: voxels of nan × 0.8 × 0.8 mm .* correct the voxel size"):
        read(raw_folder)


def test_a_direction_that_is_no_number_is_the_images_fault_not_the_labels(raw_folder):
    folder = make_dataset(
        raw_folder, patients=2, volumes=True, depth=4, size=16, overwrite_image_reader_writer="NibabelIO"
    )
    z_of_header(folder, 5.0, float("nan"))
    with pytest.raises(BadInput, match=rf"{CASE}_0000.nii.gz: original_affine .*nan.* is not finite; correct it"):
        read(raw_folder)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_a_label_that_is_turned_by_half_a_degree_is_refused(raw_folder, reader):
    folder = make_dataset(raw_folder, patients=2, volumes=True, depth=4, size=16, overwrite_image_reader_writer=reader)
    name = f"labelsTr/{CASE}.nii.gz"
    rewritten(folder, [name], direction=turned(0.01))
    read(raw_folder)
    rewritten(folder, [name], direction=turned(0.5))
    with pytest.raises(BadInput, match=rf"{CASE}.nii.gz: (direction|original_affine) .* differs from the image's"):
        read(raw_folder)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_a_spacing_in_a_message_is_easy_to_read(raw_folder, reader):
    folder = make_dataset(raw_folder, patients=2, volumes=True, depth=4, size=16, overwrite_image_reader_writer=reader)
    rewritten(folder, [f"labelsTr/{CASE}.nii.gz"], spacing=(0.8, 0.8, 2.5))
    with pytest.raises(BadInput) as refused:
        read(raw_folder)
    assert f"{CASE}.nii.gz: spacing [2.5, 0.8, 0.8] differs from the image's [5, 0.8, 0.8] (" in str(refused.value)


def test_slices_of_a_single_value_below_labels_are_known_also_from_the_cache(raw_folder, tmp_path):
    folder = make_dataset(raw_folder, patients=2, volumes=True, depth=6, size=16, channels=2)
    for channel, blank in ((0, [2, 3, 4]), (1, [3, 4])):
        path = str(folder / f"imagesTr/{CASE}_000{channel}.nii.gz")
        image = sitk.ReadImage(path)
        for z in blank:
            image[:, :, z] = -1024
        sitk.WriteImage(image, path)
    label = sitk.ReadImage(str(folder / f"labelsTr/{CASE}.nii.gz"))
    label[:, :, 4] = 0
    sitk.WriteImage(label, str(folder / f"labelsTr/{CASE}.nii.gz"))
    raw = open_raw_dataset("801")
    for _ in range(2):  # read, and from the cache
        facts = build_cache(raw, tmp_path / "cache", progress=False).facts
        assert {identifier: case.blank for identifier, case in facts.items()} == {CASE: (3,), "lung_002": ()}


def test_channels_in_one_file_of_four_dimensions_are_read(raw_folder):
    folder = make_dataset(raw_folder, patients=2, volumes=True, depth=4, size=16, channels=2)
    expected = read(raw_folder)[0]
    for case in ("lung_001", "lung_002"):
        files = [folder / "imagesTr" / f"{case}_{channel:04d}.nii.gz" for channel in range(2)]
        joined = sitk.JoinSeries([sitk.ReadImage(str(file)) for file in files])
        files[1].unlink()
        sitk.WriteImage(joined, str(files[0]))
    assert np.array_equal(read(raw_folder)[0], expected)
    rewritten(folder, [f"labelsTr/{CASE}.nii.gz"], origin=(50.0, 60.0, 70.0))
    with pytest.raises(BadInput, match="origin .* differs from the image's"):
        read(raw_folder)


def test_a_file_of_more_volumes_than_channels_is_told_to_be_split(raw_folder):
    folder = make_dataset(raw_folder, patients=2, volumes=True, depth=4, size=16)
    path = str(folder / f"imagesTr/{CASE}_0000.nii.gz")
    sitk.WriteImage(sitk.JoinSeries([sitk.ReadImage(path)] * 3), path)
    said = "3 channels found, 1 expected .*; it is a 4D file with 3 volumes: save the volume of each channel as a file"
    with pytest.raises(BadInput, match=said):
        read(raw_folder)


def test_cached_cases_are_read_anew_for_a_reader_that_turns_the_axes(raw_folder, tmp_path):
    folder = make_dataset(raw_folder, patients=2, volumes=True, depth=4, size=16, direction=np.diag([-1, 1, 1]))
    raw, cache = open_raw_dataset("801"), tmp_path / "cache"
    build_cache(raw, cache, progress=False)
    before = (cache / f"{CASE}.image.npy").stat().st_mtime_ns
    build_cache(raw, cache, progress=False)
    assert (cache / f"{CASE}.image.npy").stat().st_mtime_ns == before
    for reader in ("SimpleITKIOWithReorient", "SimpleITKIO"):
        path = folder / "dataset.json"
        text = path.read_text().replace("{", f'{{"overwrite_image_reader_writer": "{reader}",', 1)
        path.write_text(text)
        raw = open_raw_dataset("801")
        assert raw.reader.__name__ == reader
        assert cached_image(folder, cache, raw.cases[CASE], FileHashes(), raw.reader) is None
        facts = build_cache(raw, cache, progress=False).facts[CASE]
        assert np.array_equal(np.load(cache / f"{CASE}.image.npy"), raw.read_image(CASE)[0])
        cached = cached_image(folder, cache, raw.cases[CASE], FileHashes(), raw.reader)
        assert cached is not None
        assert np.array_equal(cached()[0], raw.read_image(CASE)[0])
        assert facts.directions == read_case(raw, raw.cases[CASE])[2].directions
        path.write_text(text.replace(f'"overwrite_image_reader_writer": "{reader}",', ""))
