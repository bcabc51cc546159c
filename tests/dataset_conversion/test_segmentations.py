"""DICOM-SEG: segments are placed by the positions of their frames, whatever their order, grid and references."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

from nnunet_difflung.dataset_conversion.accept import Accept  # noqa: E402
from nnunet_difflung.dataset_conversion.dicom.source import DicomSource, find_sources  # noqa: E402
from nnunet_difflung.dataset_conversion.imaging.geometry import on_grid  # noqa: E402
from tests.support.dicom_files import numbers, write_ct, write_seg  # noqa: E402
from tests.support.sources import counted, refused  # noqa: E402

SIZE, SPACING, ORIGIN = (48, 40, 12), (0.8, 1.1, 2.5), (-10.0, 20.0, 300.0)
STRAIGHT, OBLIQUE = np.eye(3), Rotation.from_euler("xyz", [20, -12, 8], degrees=True).as_matrix()


def ct(direction: np.ndarray = STRAIGHT, depth: int = SIZE[2], step: float = SPACING[2]) -> sitk.Image:
    values = np.random.default_rng(0).integers(-1024, 1500, (depth, *SIZE[1::-1])).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((*SPACING[:2], step))
    image.SetOrigin(ORIGIN)
    image.SetDirection(direction.ravel().tolist())
    return image


def shapes() -> dict[str, np.ndarray]:
    """Two overlapping structures on several slices with empty slices between them."""
    y, x = np.ogrid[: SIZE[1], : SIZE[0]]
    big, small = np.zeros((2, *SIZE[::-1]), np.uint8)
    big[2:8] = np.hypot(y - 18, 1.3 * (x - 20)) < 12
    for z in (3, 4, 7, 9):
        small[z] = np.hypot(y - 14, x - 25) < 5
    return {"big": big, "small": small}


def changed(path: Path, change: Callable) -> None:
    data = pydicom.dcmread(path)
    change(data)
    data.save_as(path)


def masks(source: DicomSource, direction: np.ndarray = STRAIGHT) -> dict[str, np.ndarray]:
    return {name: on_grid(mask, ct(direction)) for name, mask in source.load().structures.items()}


def segmented(folder: Path, change: Callable | None = None, direction=STRAIGHT, kind="BINARY", seed=3) -> DicomSource:
    slices = write_ct(folder / "p", ct(direction))
    write_seg(folder / "p" / "seg", slices, shapes(), kind, seed)
    if change is not None:
        changed(folder / "p" / "seg", change)
    return find_sources(folder)[0]


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return sorted(found) == sorted(expected) and all(np.array_equal(found[n], expected[n]) for n in expected)


def _no_references(data):
    del data.ReferencedSeriesSequence
    for group in data.PerFrameFunctionalGroupsSequence:
        del group.DerivationImageSequence


def _one_reference_for_all(data):
    for group in data.PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        source.ReferencedSOPInstanceUID = "1.2.3"


def _no_dimensions(data):
    del data.DimensionIndexSequence, data.DimensionOrganizationSequence
    for group in data.PerFrameFunctionalGroupsSequence:
        del group.FrameContentSequence


def _places_in_frames(data):
    shared = data.SharedFunctionalGroupsSequence[0]
    for group in data.PerFrameFunctionalGroupsSequence:
        group.PixelMeasuresSequence = shared.PixelMeasuresSequence
        group.PlaneOrientationSequence = shared.PlaneOrientationSequence
    del shared.PixelMeasuresSequence, shared.PlaneOrientationSequence


def _no_type(data):
    del data.SegmentationType


@pytest.mark.parametrize("direction", [STRAIGHT, OBLIQUE], ids=["axial", "oblique"])
@pytest.mark.parametrize(
    "change", [None, _no_references, _one_reference_for_all, _no_dimensions, _places_in_frames, _no_type]
)
def test_overlapping_segments_in_shuffled_frames_are_placed_by_position(tmp_path, change, direction):
    source = segmented(tmp_path, change, direction)
    assert same(masks(source, direction), shapes())
    assert counted(source) == set()


@pytest.mark.parametrize("axes", [(-1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize("backwards", [False, True])
def test_flipped_segmentations_lie_where_they_were_drawn(tmp_path, axes, backwards):
    image, (flip_x, flip_y) = ct(), (axis < 0 for axis in axes)

    def flipped(z, data):
        data.ImageOrientationPatient = numbers([axes[0], 0, 0, 0, axes[1], 0])
        corner = ((SIZE[0] - 1) * flip_x, (SIZE[1] - 1) * flip_y, z)
        data.ImagePositionPatient = numbers(image.TransformIndexToPhysicalPoint(tuple(map(int, corner))))

    slices = write_ct(tmp_path / "p", image)
    turned = write_ct(tmp_path / "unused", image, frame=slices[0].FrameOfReferenceUID, change=flipped)
    steps = (slice(None, None, -1 if backwards else 1), slice(None, None, axes[1]), slice(None, None, axes[0]))
    drawn = {name: np.ascontiguousarray(mask[steps]) for name, mask in shapes().items()}
    write_seg(tmp_path / "p" / "seg", turned[::-1] if backwards else turned, drawn)
    assert same(masks(find_sources(tmp_path / "p")[0]), shapes())


def test_several_files_add_up_and_the_same_name_in_two_is_refused(tmp_path):
    slices = write_ct(tmp_path / "p", ct())
    for name, mask in shapes().items():
        write_seg(tmp_path / "p" / f"seg_{name}", slices, {name: mask})
    assert same(masks(find_sources(tmp_path)[0]), shapes())
    write_seg(tmp_path / "p" / "seg_third", slices, {"big": shapes()["small"]})
    assert "structure 'big' is also in" in refused(find_sources(tmp_path)[0])


@pytest.mark.parametrize("kind", ["PROBABILITY", "OCCUPANCY"])
def test_fractional_segments_are_set_from_one_half_on_and_that_is_said(tmp_path, kind):
    slices = write_ct(tmp_path / "p", ct())
    share = shapes()["big"] * np.float32(0.4)
    share[:, 18:] *= 2
    write_seg(tmp_path / "p" / "seg", slices, {"x": share}, "FRACTIONAL", fractional_type=kind)
    source = find_sources(tmp_path)[0]
    assert np.array_equal(masks(source)["x"], share > 0.5)
    what = "voxels that belong to a segment in part, set where at least half of the voxel does"
    assert counted(source) == {("reinterpreted", int((share > 0).sum()), what)}

    def without_maximum(data):
        del data.MaximumFractionalValue

    changed(tmp_path / "p" / "seg", without_maximum)
    assert np.array_equal(masks(find_sources(tmp_path)[0])["x"], share > 0.5)
    assert ("guessed", 1, "fractional segments without MaximumFractionalValue") in counted(find_sources(tmp_path)[0])


def test_label_maps_give_a_structure_for_each_segment_but_the_background(tmp_path):
    slices, big, small = write_ct(tmp_path / "p", ct()), *shapes().values()
    big[small > 0] = 0
    write_seg(tmp_path / "p" / "seg", slices, {"big": big, "small": small}, "LABELMAP")
    source = find_sources(tmp_path)[0]
    assert source.listing().structures == ("big", "small")
    assert same(masks(source), {"big": big, "small": small})

    def undefined(data):
        data.SegmentSequence = [item for item in data.SegmentSequence if item.SegmentNumber != 2]

    changed(tmp_path / "p" / "seg", undefined)
    source = find_sources(tmp_path)[0]
    assert same(masks(source), {"big": big})
    assert counted(source) == {("dropped", int(small.sum()), "voxels of segments that the file does not define")}


def test_a_part_of_the_image_and_pixels_of_another_size(tmp_path):
    image, drawn = ct(), shapes()["big"]
    slices = write_ct(tmp_path / "p", image)

    def part(z, data):
        data.Rows, data.Columns = 32, 32
        data.ImagePositionPatient = numbers(image.TransformIndexToPhysicalPoint((5, 4, z)))
        data.PixelData = b"\0" * (2 * 32 * 32)

    cut = write_ct(tmp_path / "unused", image, frame=slices[0].FrameOfReferenceUID, change=part)
    write_seg(tmp_path / "p" / "seg", cut, {"x": drawn[:, 4:36, 5:37]})
    assert np.array_equal(masks(find_sources(tmp_path / "p")[0])["x"], drawn)

    def finer(z, data):
        data.Rows, data.Columns = 80, 96
        data.PixelSpacing = numbers([SPACING[1] / 2, SPACING[0] / 2])
        data.ImagePositionPatient = numbers(image.TransformContinuousIndexToPhysicalPoint((-0.25, -0.25, float(z))))
        data.PixelData = b"\0" * (2 * 80 * 96)

    fine = write_ct(tmp_path / "unused2", image, frame=slices[0].FrameOfReferenceUID, change=finer)
    write_seg(tmp_path / "p" / "seg", fine, {"x": drawn.repeat(2, axis=1).repeat(2, axis=2)})
    found = masks(find_sources(tmp_path / "p")[0])["x"]
    assert np.array_equal(np.flatnonzero(found.any(axis=(1, 2))), np.flatnonzero(drawn.any(axis=(1, 2))))
    assert 2 * (found & drawn).sum() / (found.sum() + drawn.sum()) > 0.98


@pytest.mark.parametrize("shift", [0.5, 0.3, -0.5])
def test_frames_between_the_slices_are_as_many_slices_in_a_row(tmp_path, shift):
    image = ct()
    slices = write_ct(tmp_path / "p", image)

    def moved(z, data):
        data.ImagePositionPatient = numbers(image.TransformContinuousIndexToPhysicalPoint((0.0, 0.0, z + shift)))

    between = write_ct(tmp_path / "unused", image, frame=slices[0].FrameOfReferenceUID, change=moved)
    write_seg(tmp_path / "p" / "seg", between[1:-1], {"x": shapes()["big"][1:-1]})
    source = find_sources(tmp_path / "p")[0]
    down = 1 if shift == -0.5 else 0
    assert np.array_equal(masks(source)["x"], np.roll(shapes()["big"], -down, axis=0))
    assert ("moved", 6, "frames of segments between two slices, moved") in counted(source)


def _no_series(data):
    del data.ReferencedSeriesSequence


@pytest.mark.parametrize("change", [None, _no_series])
def test_a_series_of_thicker_slices_that_is_missing_leaves_no_gap(tmp_path, change):
    slices = write_ct(tmp_path / "p", ct())
    thick = write_ct(tmp_path / "unused", ct(depth=4, step=7.5), frame=slices[0].FrameOfReferenceUID)
    drawn = np.repeat(shapes()["big"][3:4], 4, axis=0)
    drawn[[0, 3]] = 0
    write_seg(tmp_path / "p" / "seg", thick, {"x": drawn})
    if change is not None:
        changed(tmp_path / "p" / "seg", change)
    source = find_sources(tmp_path / "p")[0]
    found = masks(source)["x"]
    assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == [2, 3, 4, 5, 6, 7]
    assert np.array_equal(found[4], drawn[1])
    assert ("guessed", 4, "slices filled between frames of thicker slices") in counted(source)


def test_slices_that_were_not_segmented_stay_empty(tmp_path):
    slices = write_ct(tmp_path / "p", ct())
    drawn = shapes()["big"]
    drawn[::2] = 0
    write_seg(tmp_path / "p" / "seg", slices[1::2], {"x": drawn[1::2]})
    assert np.array_equal(masks(find_sources(tmp_path)[0])["x"], drawn)


def test_a_segmentation_of_another_frame_of_reference_is_refused_unless_accepted(tmp_path):
    def other_frame(data):
        data.FrameOfReferenceUID = "1.2.3"

    line = refused(segmented(tmp_path, other_frame))
    assert "another frame of reference" in line
    assert "--accept other-series" in line
    source = find_sources(tmp_path, accept=frozenset({Accept.OTHER_SERIES}))[0]
    assert same(masks(source), shapes())
    assert {kind for kind, _, _ in counted(source)} == {"moved"}


def test_a_segmentation_of_another_patient_is_not_taken(tmp_path):
    slices = write_ct(tmp_path / "p" / "a", ct(), "1")
    others = write_ct(tmp_path / "p" / "b", ct(), "2", seed=1)
    write_seg(tmp_path / "p" / "a" / "seg", others, shapes())
    assert slices[0].PatientID != others[0].PatientID
    structures = {source.patient: source.listing().structures for source in find_sources(tmp_path)}
    assert sorted(structures.values()) == [(), ("big", "small")]


def _without(*keywords: str):
    def change(data):
        for item in data.SegmentSequence:
            for keyword in keywords:
                delattr(item, keyword)

    return change


def _with_meanings(data):
    for item, meaning in zip(data.SegmentSequence, ("Lung", "Nodule"), strict=True):
        del item.SegmentLabel
        item.SegmentedPropertyTypeCodeSequence[0].CodeMeaning = meaning


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (_with_meanings, ("Lung", "Nodule")),
        (_without("SegmentLabel"), ("Lung 1", "Lung 2")),
        (_without("SegmentLabel", "SegmentedPropertyTypeCodeSequence"), ("segment 1", "segment 2")),
        (_without("SegmentedPropertyTypeCodeSequence", "SegmentedPropertyCategoryCodeSequence"), ("big", "small")),
    ],
)
def test_names_come_from_labels_or_else_from_codes(tmp_path, change, names):
    source = segmented(tmp_path, change)
    assert source.listing().structures == names
    assert same(masks(source), dict(zip(names, shapes().values(), strict=True)))


def test_frames_of_a_segment_that_is_not_defined_are_dropped_with_a_count(tmp_path):
    def undefined(data):
        del data.SegmentSequence[1]

    source = segmented(tmp_path, undefined)
    assert same(masks(source), {"big": shapes()["big"]})
    assert counted(source) == {("dropped", 4, "frames of segments that the file does not define")}


def _no_measures(data):
    del data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence


def _no_position(data):
    del data.PerFrameFunctionalGroupsSequence[2].PlanePositionSequence


def _no_pixels(data):
    del data.PixelData


def _fewer_pixels(data):
    data.PixelData = data.PixelData[:-100]


def _one_number(data):
    data.SegmentSequence[1].SegmentNumber = 1


def _fewer_places(data):
    del data.PerFrameFunctionalGroupsSequence[-1]


def _no_place_at_all(data):
    data.NumberOfFrames, data.PerFrameFunctionalGroupsSequence, data.PixelData = 0, [], b""


def _parallel(data):
    orientation = data.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    orientation.ImageOrientationPatient = numbers([1, 0, 0, 1, 0, 0])


def _far_away(data):
    place = data.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0]
    place.ImagePositionPatient = numbers([0, 0, 1e9])


def _fewer_rows(data):
    data.Rows = 38


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (_no_measures, "frame 1 has no PixelMeasuresSequence"),
        (_no_position, "frame 3 has no PlanePositionSequence"),
        (_no_pixels, "has no pixels"),
        (_fewer_pixels, "need 2400 bytes, but there are 2300"),
        (_one_number, "several segments have the same SegmentNumber"),
        (_fewer_places, "10 frames, but positions of 9"),
        (_fewer_rows, "but there are 2400"),
        (_no_place_at_all, "has no pixels"),
        (_parallel, "the position of frame 1 is damaged"),
        (_far_away, "the position of frame 2 is damaged"),
    ],
)
def test_damaged_segmentations_are_refused_with_what_is_wrong(tmp_path, change, part):
    source = segmented(tmp_path, change)
    line = refused(source)
    assert part in line
    assert str(tmp_path / "p" / "seg") in line


def test_a_file_cut_off_at_any_place_is_refused(tmp_path):
    segmented(tmp_path)
    path = tmp_path / "p" / "seg"
    content = path.read_bytes()
    for end in np.random.default_rng(0).integers(1500, len(content) - 1, 15).tolist():
        path.write_bytes(content[:end])
        assert str(path) in refused(find_sources(tmp_path)[0])
