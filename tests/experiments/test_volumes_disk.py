"""Bytes of synthetic and of real volumes."""

from __future__ import annotations

from experiments.volumes_disk import _bytes


def test_files_of_cases_are_counted_once_and_those_of_other_cases_not(tmp_path):
    raw, arrays = tmp_path / "raw", tmp_path / "arrays"
    sizes = {
        raw / "imagesTr" / "a_0000.nii.gz": 1,
        raw / "imagesTr" / "a_0001.nii.gz": 2,
        raw / "labelsTr" / "a.nii.gz": 4,
        raw / "labelsTr" / "a_0000.nii.gz": 8,  # of a case that is called like an image
        raw / "imagesTr" / "b_0000.nii.gz": 16,
        arrays / "a.b2nd": 32,
        arrays / "a_seg.b2nd": 64,
        arrays / "a.pkl": 128,
        arrays / "b.b2nd": 256,
    }
    for file, size in sizes.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
    assert _bytes(raw, arrays, {"a"}) == {"raw": 7, "arrays": 224}
    assert _bytes(raw, arrays, {"b"}) == {"raw": 16, "arrays": 256}
