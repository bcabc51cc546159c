"""Volumes: values, place and orientation as their headers say, in every form that such headers have."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions
from nnunet_difflung.dataset_conversion.archive.volumes import find_sources
from nnunet_difflung.dataset_conversion.imaging.geometry import is_orthogonal, same_grid
from nnunet_difflung.errors import BadInput
from tests.support.archives import chest, like

nib = pytest.importorskip("nibabel")

IMAGE = chest(1)[0]
LESION = np.zeros(IMAGE.shape, np.uint8)
LESION[1:3, 28:34, 18:24] = 1
AFFINE = np.array([[-4.0, 0, 0, 100], [0, -4, 0, -50], [0, 0, 5, -300], [0, 0, 0, 1]])  # RAS, as tests.support has it


def write(folder: Path, image=IMAGE, label=LESION, affine=AFFINE, ending=".nii.gz", edit=None, kind=nib.Nifti1Image):
    """``images/p1`` and ``labels/p1``; ``edit`` changes both stored headers."""
    for part, array in (("images", image), ("labels", label)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        nifti = kind(array.transpose(*range(array.ndim)[::-1]), affine)
        nifti.header.set_qform(None, 0)
        nifti.header.set_sform(affine, 1)
        nib.save(nifti, folder / part / f"p1{ending}")
        if edit is not None:
            edit_header(folder / part / f"p1{ending}", edit)


def edit_header(path: Path, edit) -> None:
    data = bytearray(gzip.decompress(path.read_bytes()))
    header = nib.Nifti1Header(bytes(data[:348]), check=False)
    edit(header)
    data[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(data)))


def loaded(folder: Path):
    ((source,), _) = find_sources(folder, ArchiveOptions(image="^images/"))
    scan = source.load()
    return scan, sitk.GetArrayFromImage(scan.image), sitk.GetArrayFromImage(scan.structures["labels"])


def check(folder: Path, spacing=(4.0, 4.0, 5.0), origin=(-100.0, 50.0, -300.0)):
    scan, image, label = loaded(folder)
    assert np.allclose(image, IMAGE)
    assert (label == LESION).all()
    assert same_grid(scan.image, scan.structures["labels"])
    assert np.allclose(scan.image.GetSpacing(), spacing, atol=1e-4)
    assert np.allclose(scan.image.GetOrigin(), origin, atol=1e-3)
    return scan


def fields(**values):
    def edit(header):
        for name, value in values.items():
            header[name] = value

    return edit


def shifted(header):
    other = AFFINE.copy()
    other[:3, 3] = 7, 8, 9
    header.set_sform(other, 2)
    header.set_qform(AFFINE, 1)


RIGHT = {  # name: how the files are written
    "plain": {},
    "uncompressed": {"ending": ".nii"},
    "sform and qform differ": {"edit": shifted},
    "big-endian": {"kind": lambda data, affine: nib.Nifti1Image(data, affine, nib.Nifti1Header(endianness=">"))},
    "NIfTI-2": {"kind": nib.Nifti2Image},
    "pair of files": {"ending": ".hdr", "kind": nib.Nifti1Pair},
    "label intent": {"edit": fields(intent_code=1002)},
    "time point": {"image": IMAGE[None], "label": LESION[None]},
    "5-D": {"image": IMAGE[None, None], "label": LESION[None, None]},
    "unit not given": {"edit": fields(xyzt_units=0)},
    "floats": {"image": IMAGE.astype(np.float32), "label": LESION.astype(np.float64)},
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right(tmp_path, name):
    write(tmp_path, **RIGHT[name])
    assert check(tmp_path).notes == ()


def test_a_left_handed_volume(tmp_path):
    affine = AFFINE.copy()
    affine[:, 0] *= -1
    write(tmp_path, affine=affine)
    scan, image, label = loaded(tmp_path)
    assert (image == IMAGE).all()
    assert (label == LESION).all()
    assert np.linalg.det(np.array(scan.image.GetDirection()).reshape(3, 3)) == pytest.approx(-1)


def test_slope_and_intercept_of_image_and_label(tmp_path):
    write(tmp_path)
    for part, array, slope, intercept in (("images", IMAGE, 0.5, -24.0), ("labels", LESION, 1 / 255, 0.0)):
        stored = np.rint((array - intercept) / slope).astype(np.int16).transpose(2, 1, 0)
        nifti = nib.Nifti1Image(stored, AFFINE)
        nifti.header.set_slope_inter(slope, intercept)
        nib.save(nifti, tmp_path / part / "p1.nii.gz")
    check(tmp_path)


def test_a_slope_of_zero_means_no_scaling(tmp_path):
    write(tmp_path)
    edit_header(tmp_path / "images" / "p1.nii.gz", fields(scl_slope=0, scl_inter=-1024))
    (note,) = check(tmp_path).notes
    assert note.kind == "reinterpreted"
    assert "scl_slope is 0" in note.text


@pytest.mark.parametrize("scaling", [(np.inf, 0), (1, np.nan), (np.nan, 5)])
def test_a_scaling_that_is_no_number_is_refused(tmp_path, scaling):
    write(tmp_path)
    edit_header(tmp_path / "images" / "p1.nii.gz", fields(scl_slope=scaling[0], scl_inter=scaling[1]))
    with pytest.raises(BadInput, match="scl_slope .*finite"):
        loaded(tmp_path)


@pytest.mark.parametrize("end", [b"", b"\0" * 512, b"garbage"])
def test_gzip_files_of_several_parts(tmp_path, end):
    write(tmp_path)
    for path in tmp_path.rglob("*.nii.gz"):
        content = gzip.decompress(path.read_bytes())
        parts = [content[:1000], content[1000:1001], b"", content[1001:]]
        path.write_bytes(b"".join(map(gzip.compress, parts)) + end)
    check(tmp_path)


@pytest.mark.parametrize("wrong", ["gzipped file named .nii", "uncompressed file named .nii.gz"])
def test_a_wrong_ending(tmp_path, wrong):
    write(tmp_path, ending=".nii.gz" if "gzipped" in wrong else ".nii")
    for file in list(tmp_path.rglob("p1*")):
        file.rename(file.with_name("p1.nii" if "gzipped" in wrong else "p1.nii.gz"))
    check(tmp_path)


# ---- axes ----


def sheared(x=0.0, y=0.0, in_plane=0.0):
    affine = AFFINE.copy()
    affine[:3, 2] += x, y, 0
    affine[0, 1] += in_plane
    return affine


def test_axes_that_are_perpendicular_but_for_rounding_are_repaired(tmp_path):
    write(tmp_path, affine=sheared(y=5 * 2e-4, in_plane=4 * 2e-4))
    scan = check(tmp_path)
    assert is_orthogonal(scan.image, 1e-9)
    assert {note.kind for note in scan.notes} == {"reinterpreted"}
    assert len(scan.notes) == 2  # image and label map
    assert "moves a corner by 0.0" in scan.notes[0].text


def test_a_tilted_gantry_is_straightened_with_its_label_map(tmp_path):
    shift = -5 * np.tan(np.radians(12))
    write(tmp_path, affine=sheared(y=shift))
    scan, image, label = loaded(tmp_path)
    assert is_orthogonal(scan.image)
    assert np.allclose(scan.image.GetSpacing(), (4, 4, 5), atol=1e-3)
    assert label.sum() == LESION.sum()
    inside = scan.image.GetSize()
    for z in range(4):  # where a voxel lay in the patient, it lies now
        point = nib.affines.apply_affine(sheared(y=shift), (40, 32, z)) * (-1, -1, 1)
        at = scan.image.TransformPhysicalPointToContinuousIndex(point.tolist())
        assert min(at) >= 0
        assert all(a <= n - 1 for a, n in zip(at, inside, strict=True))
        row, rest = int(at[1]), at[1] - int(at[1])
        expected = image[z, row, 40] * (1 - rest) + image[z, row + 1, 40] * rest
        assert np.abs(expected - IMAGE[z, 31:34, 40]).min() < 60
    assert [(note.kind, "straightened" in note.text) for note in scan.notes] == [("moved", True)]


def test_a_sheared_sform_beside_a_qform_is_noted(tmp_path):
    def edit(header):
        header.set_qform(AFFINE, 1)
        header.set_sform(sheared(y=-1.06), 1)

    write(tmp_path, edit=edit)
    notes = check(tmp_path).notes
    assert {(note.kind, "the qform was taken" in note.text) for note in notes} == {("reinterpreted", True)}


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_other_formats_are_straightened_and_repaired_as_well(tmp_path, ending):
    for name, tilt in (("tilted", 0.2), ("rounded", 2e-4)):
        direction = np.eye(3)
        direction[:, 2] = 0, tilt, 1
        direction[:, 2] /= np.linalg.norm(direction[:, 2])
        for part, array in (("images", IMAGE), ("labels", LESION)):
            (tmp_path / name / part).mkdir(parents=True)
            sitk.WriteImage(like(array, direction=direction), str(tmp_path / name / part / f"p1{ending}"))
    scan, _, label = loaded(tmp_path / "tilted")
    assert is_orthogonal(scan.image)
    assert label.sum() == LESION.sum()
    assert is_orthogonal(check(tmp_path / "rounded").image, 1e-9)


def test_slices_with_sheared_axes_are_refused(tmp_path):
    write(tmp_path, affine=sheared(in_plane=1.0))
    with pytest.raises(
        BadInput, match="p1.nii.gz: a sheared image, .*axes at .*expected 90°.*resample image and label"
    ):
        loaded(tmp_path)


@pytest.mark.parametrize("row", ["srow_x", "srow_y", "srow_z"])
@pytest.mark.parametrize("value", [0, np.nan])
def test_an_affine_that_says_nothing(tmp_path, row, value):
    write(tmp_path / "without qform", edit=fields(**{row: value}))
    with pytest.raises(
        BadInput, match=r"p1.nii.gz: the sform of its header is not a valid affine .* export the file again"
    ):
        loaded(tmp_path / "without qform")

    def edit(header):
        header.set_qform(AFFINE, 1)
        header[row] = value

    write(tmp_path / "with qform", edit=edit)
    notes = check(tmp_path / "with qform").notes
    assert {note.kind for note in notes} == {"reinterpreted"}


def test_a_header_without_a_position_is_noted(tmp_path):
    write(tmp_path, edit=fields(sform_code=0))
    scan, image, label = loaded(tmp_path)
    assert (image == IMAGE).all()
    assert (label == LESION).all()
    assert {note.kind for note in scan.notes} == {"guessed"}


# ---- voxel sizes ----


@pytest.mark.parametrize("size", [0.0, np.nan])
def test_a_voxel_size_that_is_missing_is_refused(tmp_path, size):
    write(tmp_path, edit=fields(sform_code=0, pixdim=[1, 4, 4, size, 0, 0, 0, 0]))
    with pytest.raises(BadInput, match=r"4 × 4 × (0|nan) mm; expected the size in mm"):
        loaded(tmp_path)


def test_the_sform_counts_where_pixdim_says_something_else(tmp_path):
    write(tmp_path, edit=fields(pixdim=[1, 1, 1, 1, 0, 0, 0, 0]))
    notes = check(tmp_path).notes
    assert {note.kind for note in notes} == {"reinterpreted"}


def test_two_voxel_sizes_are_refused(tmp_path):
    def edit(header):
        header.set_qform(np.diag([-2.0, -2, 2, 1]), 1)
        header.set_sform(AFFINE, 1)

    write(tmp_path, edit=edit)
    with pytest.raises(BadInput, match="sform of its header gives voxels of 4 × 4 × 5 mm, its qform .* 2 × 2 × 2"):
        loaded(tmp_path)


def test_a_header_in_micrometres_is_converted(tmp_path):
    affine = AFFINE.copy()
    affine[:3] *= 1000
    write(tmp_path, affine=affine, edit=fields(xyzt_units=3))
    notes = check(tmp_path).notes
    assert {note.kind for note in notes} == {"reinterpreted"}
    assert "is in µm: converted to mm" in notes[0].text


def test_a_wrong_unit_is_refused(tmp_path):
    write(tmp_path, edit=fields(xyzt_units=1))
    with pytest.raises(BadInput, match=r"voxels of 4000 × 4000 × 5000 mm; .*unit in the header"):
        loaded(tmp_path)


def in_headers(folder: Path, old: bytes, new: bytes, ending: str) -> None:
    for part, array in (("images", IMAGE), ("labels", LESION)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(like(array), str(folder / part / f"p1{ending}"), ending == ".mha")
        path = folder / part / f"p1{ending}"
        assert old in path.read_bytes()
        path.write_bytes(path.read_bytes().replace(old, new))


@pytest.mark.parametrize(
    ("ending", "old", "new"),
    [
        (".mha", b"ElementSpacing = 4 4 5", b"ElementSpacing = 4 4 0"),
        (".nrrd", b"(0,0,5)", b"(0,0,0)"),
    ],
)
def test_a_spacing_of_zero_is_refused(tmp_path, ending, old, new):
    in_headers(tmp_path, old, new, ending)
    with pytest.raises(BadInput, match="voxel size of 0 mm .*correct the spacing"):
        loaded(tmp_path)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_compressed_files_and_both_patient_coordinates_of_nrrd(tmp_path, ending):
    for part, array in (("images", IMAGE), ("labels", LESION)):
        (tmp_path / part).mkdir()
        sitk.WriteImage(like(array), str(tmp_path / part / f"p1{ending}"), True)
    assert check(tmp_path).notes == ()


@pytest.mark.parametrize("image_in_ras", [True, False])
def test_nrrd_in_ras_and_lps_are_the_same_place(tmp_path, image_in_ras):
    for part, array, ras in (("images", IMAGE, image_in_ras), ("labels", LESION, True)):
        sign, space = (-1, "right-anterior-superior") if ras else (1, "left-posterior-superior")
        (tmp_path / part).mkdir()
        head = (
            f"NRRD0004\ntype: {'short' if part == 'images' else 'uchar'}\ndimension: 3\nspace: {space}\n"
            f"sizes: 64 64 4\nspace directions: ({sign * 4},0,0) (0,{sign * 4},0) (0,0,5)\n"
            f"kinds: domain domain domain\nendian: little\nencoding: raw\n"
            f"space origin: ({sign * -100},{sign * 50},-300)\n\n"
        )
        (tmp_path / part / "p1.nrrd").write_bytes(head.encode() + array.tobytes())
    check(tmp_path)


def test_nrrd_without_a_voxel_size_is_noted(tmp_path):
    for part, array in (("images", IMAGE), ("labels", LESION)):
        (tmp_path / part).mkdir()
        kind = "short" if part == "images" else "uchar"
        head = f"NRRD0004\ntype: {kind}\ndimension: 3\nsizes: 64 64 4\nendian: little\nencoding: raw\n\n"
        (tmp_path / part / "p1.nrrd").write_bytes(head.encode() + array.tobytes())
    scan, _, _ = loaded(tmp_path)
    assert {note.kind for note in scan.notes} == {"guessed"}


# ---- files that cannot be used ----


def remove_raw(ending: str, raw: str):
    def damage(folder: Path) -> None:
        for file in (folder / "images").iterdir():
            file.unlink()
        sitk.WriteImage(like(IMAGE), str(folder / "images" / f"p1{ending}"), False)
        (folder / "images" / f"p1.{raw}").unlink()

    return damage


def analyze(folder: Path) -> None:
    (folder / "images" / "p1.nii.gz").unlink()
    nib.save(nib.AnalyzeImage(IMAGE.transpose(2, 1, 0), AFFINE), folder / "images" / "p1.img")


def overwritten(content: bytes):
    return lambda folder: (folder / "images" / "p1.nii.gz").write_bytes(content)


def several_times(folder: Path) -> None:
    nib.save(nib.Nifti1Image(np.stack([IMAGE] * 3).transpose(3, 2, 1, 0), AFFINE), folder / "images" / "p1.nii.gz")


def complex_numbers(folder: Path) -> None:
    nib.save(nib.Nifti1Image(IMAGE.transpose(2, 1, 0).astype(np.complex64), AFFINE), folder / "images" / "p1.nii.gz")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (overwritten(b""), r"is empty \(0 bytes\).*copy it again"),
        (overwritten(b"\x1f\x8b\x08\x00rubbish"), "cannot be read"),
        (overwritten(b"not an image"), "cannot be read"),
        (remove_raw(".nhdr", "raw"), "data file p1.raw is missing .*copy both files again"),
        (remove_raw(".mhd", "raw"), "data file .* is missing .*copy both files again"),
        (analyze, "Analyze 7.5, .* left from right; expected NIfTI"),
        (several_times, "4D image .*separate file"),
        (complex_numbers, "complex"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path, damage, message):
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises(BadInput, match=message):
        loaded(tmp_path)


@pytest.mark.parametrize("part", ["images", "labels"])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_damage_in_compressed_files_is_noticed(tmp_path, part, ending):
    for name, array in (("images", IMAGE), ("labels", LESION)):
        (tmp_path / name).mkdir()
        sitk.WriteImage(like(array), str(tmp_path / name / f"p1{ending}"), True)
    path = tmp_path / part / f"p1{ending}"
    content = path.read_bytes()
    start = {".nii.gz": 12, ".nrrd": content.find(b"\n\n") + 14, ".mha": content.find(b"LOCAL\n") + 8}[ending]
    rng, refused = np.random.default_rng(0), 0
    for place in rng.integers(start, len(content) - 8, 30):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(bytes(damaged))
        try:
            _, image, label = loaded(tmp_path)
        except BadInput as error:
            refused += "cannot be read" in str(error)
        else:  # a bit that no reader looks at
            assert (image == IMAGE).all()
            assert (label == LESION).all()
    assert refused > 10
    path.write_bytes(content)
    loaded(tmp_path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("part", ["images", "labels"])
def test_truncated_files_are_noticed(tmp_path, ending, part):
    write(tmp_path, ending=ending)
    path = tmp_path / part / f"p1{ending}"
    content = path.read_bytes()
    content = content[:-1000] if ending == ".nii" else gzip.compress(gzip.decompress(content)[:-1000])
    path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"{part}/p1{ending} cannot be read .*copy it again"):
        loaded(tmp_path)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
@pytest.mark.parametrize(("part", "value"), [("images", np.nan), ("images", np.inf), ("labels", np.nan)])
def test_values_that_are_no_numbers_are_refused_by_file_and_do_not_become_zero(tmp_path, part, value, ending):
    for folder, array in (("images", IMAGE), ("labels", LESION)):
        (tmp_path / folder).mkdir()
        values = array.astype(np.float32)
        if folder == part:
            values[0, 0, :5] = value
        sitk.WriteImage(like(values), str(tmp_path / folder / f"p1{ending}"))
    with pytest.raises(BadInput, match=rf"{part}/p1{ending}: 5 of {IMAGE.size} values are NaN or infinite"):
        loaded(tmp_path)
