"""Planes of contours go to slices: none is lost, none is invented, and the volume stays, wherever they lie."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from nnunet_difflung.dataset_conversion.accept import Accept
from nnunet_difflung.dataset_conversion.dicom.contours import roi_mask
from nnunet_difflung.dataset_conversion.dicom.planes import assign, lie_on_slices, usual_pitch
from nnunet_difflung.dataset_conversion.dicom.rtstruct import Contour, Roi
from nnunet_difflung.errors import BadInput

SLICES = 40
SPACING = (2.0, 1.5, 5.0)
SHIFTS = [0.0, 0.25, 0.49, 0.5, 0.51, 0.75, -0.25, -0.49, -0.5]


@settings(max_examples=100, deadline=None)
@given(
    number=st.integers(1, 25),
    shift=st.sampled_from(SHIFTS) | st.floats(-0.5, 0.5),
    jitter=st.sampled_from([0.0, 1e-7, 0.05, 0.2, 0.25]),
    seed=st.integers(0, 2**32 - 1),
)
def test_planes_as_far_apart_as_the_slices_are_consecutive_slices(number, shift, jitter, seed):
    noise = np.random.default_rng(seed).uniform(-jitter, jitter, number)
    result = assign(5 + shift + np.arange(number) + noise, SLICES)
    slices = sorted(result.plane_of)
    assert [result.plane_of[z] for z in slices] == list(range(number))
    assert slices == list(range(slices[0], slices[0] + number))
    assert result.outside == ()


@settings(max_examples=100, deadline=None)
@given(pitch=st.floats(0.1, 0.74) | st.floats(1.06, 4), number=st.integers(3, 25), start=st.floats(2, 3))
def test_planes_of_other_slices_fill_the_thickness_of_theirs(pitch, number, start):
    heights = start + np.arange(number) * pitch
    result = assign(heights, 120, pitch if pitch > 1 else None)
    slices = sorted(result.plane_of)
    assert abs(len(slices) - number * pitch) <= 1 + 1e-6
    assert slices == list(range(slices[0], slices[-1] + 1))
    assert [result.plane_of[z] for z in slices] == sorted(result.plane_of[z] for z in slices)
    assert result.thickness.sum() == pytest.approx(number * pitch)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("step", [2, 3])
def test_slices_left_out_on_purpose_stay_empty(shift, step):
    slices = sorted(assign(5 + shift + np.arange(6) * step, SLICES).plane_of)
    assert np.diff(slices).tolist() == [step] * 5


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        (np.arange(5) - 0.5, [0, 1, 2, 3, 4]),
        (np.arange(35, 40) + 0.5, [35, 36, 37, 38, 39]),
        (np.arange(35, 40) + 0.49, [35, 36, 37, 38, 39]),
        (np.arange(5) - 0.49, [0, 1, 2, 3, 4]),
    ],
)
def test_half_way_the_direction_stays_in_the_image_and_is_else_downwards(heights, expected):
    assert sorted(assign(heights, SLICES).plane_of) == expected
    inner = np.arange(5) + 10.5
    assert sorted(assign(inner, SLICES).plane_of) == [10, 11, 12, 13, 14]
    assert sorted(assign(inner, SLICES, told=0.5).plane_of) == [11, 12, 13, 14, 15]


def test_a_structure_thinner_than_a_slice_keeps_a_slice():
    assert assign(np.array([7.3, 7.4, 7.5, 12.0]), SLICES).plane_of.keys() == {7, 12}
    assert assign(np.array([7.5]), SLICES).plane_of == {7: 0}


def test_planes_on_every_third_slice_do_not_lie_on_all_slices():
    assert not lie_on_slices([np.array([3.0, 6.0, 9.0])])
    assert not lie_on_slices([np.array([3.5, 4.5, 5.5])])
    assert not lie_on_slices([np.array([3.0])])
    assert lie_on_slices([np.array([3.0, 4.0, 5.0]), np.array([7.0])])
    assert usual_pitch([np.array([3.0, 6.0, 9.0]), np.array([6.0])]) == 3


def _image(rotation: np.ndarray, shear: float) -> sitk.Image:
    image = sitk.Image([48, 44, SLICES], sitk.sitkUInt8)
    axes = Rotation.from_rotvec(rotation).as_matrix()
    axes[:, 2] = axes[:, 2] * np.cos(shear) + axes[:, 1] * np.sin(shear)  # a tilted gantry
    image.SetDirection(axes.ravel().tolist())
    image.SetSpacing(SPACING)
    image.SetOrigin((-40.0, 55.0, -300.0))
    return image


def _roi(image: sitk.Image, heights, radii) -> Roi:
    """Ellipses around the centre of the image."""
    angle = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    contours = [
        Contour(
            np.array(
                [
                    image.TransformContinuousIndexToPhysicalPoint(
                        (24 + r * np.cos(a), 22 + 0.8 * r * np.sin(a), float(h))
                    )
                    for a in angle
                ]
            )
        )
        for h, r in zip(heights, radii, strict=True)
    ]
    return Roi("x", "", tuple(contours))


@settings(max_examples=20, deadline=None)
@given(
    rotation=st.lists(st.floats(-0.6, 0.6), min_size=3, max_size=3),
    shear=st.sampled_from([0.0, 0.3, -0.2]),
    shift=st.sampled_from(SHIFTS) | st.floats(-0.5, 0.5),
    pitch=st.sampled_from([1.0, 0.5, 0.4, 1.5, 2.5]),
    number=st.integers(6, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_volume_between_contours_is_kept_or_refused(tmp_path_factory, rotation, shear, shift, pitch, number, seed):
    image, path = _image(np.array(rotation), shear), tmp_path_factory.getbasetemp() / "rs"
    heights = 4 + shift + np.arange(number) * pitch
    radii = 10 + 4 * np.sin(np.arange(number) / 3 + seed % 7)
    roi = _roi(image, heights, radii)
    if pitch > 1:  # contours of thicker slices
        with pytest.raises(BadInput, match=r"mm apart.*--accept moved-contours"):
            roi_mask(roi, image, path, {})
    accept = [Accept.MOVED_CONTOURS] if pitch > 1 else []
    mask, notes = roi_mask(roi, image, path, {}, accept)
    voxels = (np.pi * 0.8 * radii**2).sum() * pitch
    rounding = 0 if pitch == 1 else np.pi * 0.8 * radii.max() ** 2  # of a thickness to whole slices
    assert abs(int(mask.sum()) - voxels) <= max(0.15 * voxels, rounding)
    filled = np.flatnonzero(mask.any(axis=(1, 2)))
    assert np.diff(filled).tolist() == [1] * (len(filled) - 1)
    moved = sum(note.count for note in notes if note.kind == "moved")
    if pitch == 1 and abs(abs(shift - round(shift)) - 0.05) > 1e-6:
        assert moved == (number if abs(shift - round(shift)) > 0.05 else 0)


def test_a_mask_without_the_volume_of_its_contours_is_refused(tmp_path):
    image = _image(np.zeros(3), 0.0)
    heights = [4, 4.3, 5, 5.3, 6, 6.3, 7, 7.3, 9.2, 9.5, 10.9, 12.3]
    radii = [6, 15, 6, 15, 6, 15, 6, 15, 6, 6, 6, 6]
    roi = _roi(image, heights, radii)
    with pytest.raises(
        BadInput, match=r"'x' enclose .* ml, but on the CT slices .* ml.*--accept moved-contours"
    ) as line:
        roi_mask(roi, image, tmp_path / "rs", {})
    assert "\n" not in str(line.value)
    mask, notes = roi_mask(roi, image, tmp_path / "rs", {}, [Accept.MOVED_CONTOURS])
    assert mask.any()
    assert {note.kind for note in notes} >= {"dropped", "moved"}
