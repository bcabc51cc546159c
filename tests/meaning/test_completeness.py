"""Truncated and damaged volumes are refused, although the usual reader fills them with zeros."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.dataset_conversion.files.picture_files import read_picture
from nnunet_difflung.dataset_conversion.files.volume_files import read_volume
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.completeness import damage, header_fault
from tests.support.archives import chest, like, write_slices
from tests.support.tiny import make_dataset

ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".nhdr")


def written(folder, ending: str, compressed: bool = True):
    path = folder / f"p1{ending}"
    sitk.WriteImage(like(chest(1)[0]), str(path), compressed)
    voxels = [p for p in folder.iterdir() if p.suffix in (".zraw", ".raw", ".gz") and p != path]
    return path, (voxels or [path])[0]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("compressed", [True, False])
def test_a_complete_file_is_read(tmp_path, ending, compressed):
    path, _ = written(tmp_path, ending, compressed)
    assert damage(path) == ""
    np.testing.assert_array_equal(sitk.GetArrayFromImage(read_volume(path)), chest(1)[0])


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_a_truncated_file_is_refused(tmp_path, ending, compressed, share):
    path, voxels = written(tmp_path, ending, compressed)
    data = voxels.read_bytes()
    voxels.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BadInput, match="p1.*copy it again"):
        read_volume(path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_flipped_and_zeroed_bytes_of_compressed_voxels_are_refused(tmp_path, ending):
    path, voxels = written(tmp_path, ending)
    if ending == ".nii":
        pytest.skip("not compressed: every byte is a voxel")
    whole, refused = voxels.read_bytes(), 0
    for seed in range(12):
        rng, data = np.random.default_rng(seed), bytearray(whole)
        start = int(rng.integers(1000, len(data) - 300))
        data[start : start + 1] = bytes([data[start] ^ 0x10])
        if seed % 2:
            data[start : start + 200] = bytes(200)
        voxels.write_bytes(bytes(data))
        try:
            values = sitk.GetArrayFromImage(read_volume(path))
        except BadInput:
            refused += 1
        else:  # some bits of compressed data mean nothing
            np.testing.assert_array_equal(values, chest(1)[0])
    assert refused >= 10


def test_what_follows_the_data_and_gzip_in_parts_are_no_damage(tmp_path):
    path, _ = written(tmp_path, ".nii.gz")
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[:5000]) + gzip.compress(data[5000:]) + bytes(512))
    assert damage(path) == ""


@pytest.mark.parametrize(
    ("line", "damaged"),
    [
        (b"ElementDataFile = LOCAL", b"ElementDataFile = LO%8C%x"),
        (b"DimSize = 64 64 4", b"DimSize = 64 64"),
        (b"DimSize = 64 64 4", b"DimSize = 64 6x 4"),
        (b"NDims = 3", b"NDims = 0"),
        (b"ElementType = MET_SHORT", b"ElementType = MET_SH\x8aRT"),
        (b"ElementDataFile = LOCAL", b""),
    ],
)
def test_a_damaged_header_does_not_reach_a_reader_that_would_end_the_process(tmp_path, line, damaged):
    path, _ = written(tmp_path, ".mha")
    content = path.read_bytes()
    assert line in content
    path.write_bytes(content.replace(line, damaged))
    assert header_fault(path)
    with pytest.raises(BadInput, match="cannot be read .*copy it again"):
        read_volume(path)


def test_an_image_without_voxels_is_refused(tmp_path):
    path, _ = written(tmp_path, ".mha", compressed=False)
    path.write_bytes(path.read_bytes().replace(b"DimSize = 64 64 4", b"DimSize = 64 64 0"))
    with pytest.raises(BadInput, match="DimSize = 64 64 0"):
        read_volume(path)


def test_a_damaged_picture_is_refused(tmp_path):
    write_slices(tmp_path, 1, 1)
    path = tmp_path / "images" / "p1_s00.png"
    whole = path.read_bytes()
    for seed in range(40):
        data, start = bytearray(whole), int(np.random.default_rng(seed).integers(60, len(whole) - 250))
        data[start : start + 200] = bytes(200)
        path.write_bytes(bytes(data))
        with pytest.raises(BadInput, match="cannot be read"):
            read_picture(path, mask=False)


@pytest.mark.parametrize("part", ["imagesTr/lung_002_s01_0000", "labelsTr/lung_003_s00"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_truncated_training_case_is_refused(raw_folder, part, share):
    folder = make_dataset(raw_folder)
    path = folder / f"{part}.nii.gz"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    raw, identifier = open_raw_dataset("801"), path.name[: len("lung_002_s01")]
    read = raw.read_image if part.startswith("images") else raw.read_label
    with pytest.raises(BadInput, match=f"{path.name} is damaged"):
        read(identifier)


def test_looking_quickly_sees_no_damage_in_complete_files(tmp_path):
    for ending in ENDINGS:
        assert damage(written(tmp_path, ending)[0], quickly=True) == ""
    path, _ = written(tmp_path, ".nii.gz")
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[:5000]) + gzip.compress(data[5000:]))
    assert damage(path, quickly=True) == "", "the last of several parts has another length than the file"
