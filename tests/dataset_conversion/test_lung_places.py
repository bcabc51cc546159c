"""The derived lung mask lies inside the patient, however the patient lies, and says where it may be wrong."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.imaging.body import body_mask
from nnunet_difflung.dataset_conversion.imaging.lung_doubts import lung_notes
from nnunet_difflung.dataset_conversion.imaging.lung_mask import derive_lungs
from nnunet_difflung.dataset_conversion.imaging.repair import costal_dents
from nnunet_difflung.dataset_conversion.notes import DOUBT, Kind
from tests.support.archives import like
from tests.support.lying_patients import PLACES, SPACING, Chest, arms, blanket, mat, opacified, pneumothorax, table

MIDDLE = slice(9, 10)  # a single slice


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def image_of(hu: np.ndarray) -> sitk.Image:
    return like(hu.astype(np.float32), spacing=SPACING[::-1])


def derived(hu: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The mask, and the names of the doubts."""
    lungs = derive_lungs(image_of(hu))
    assert all(note.kind is Kind.GUESSED for note in lungs.notes)
    assert lungs.notes[0].what == "lungs found by thresholds, not drawn"
    return lungs.mask > 0, [note.what.removeprefix(DOUBT) for note in lungs.notes[1:]]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("part", [slice(None), MIDDLE], ids=["volume", "slice"])
def test_no_air_outside_the_patient_is_lung(place, part):
    chest = Chest()
    place(chest)
    mask, _ = derived(chest.image()[part])
    assert dice(mask, chest.lung[part]) > 0.98
    assert not (mask & ~chest.trunk[part]).any()


@pytest.mark.parametrize("level", [-930.0, -980.0])
def test_lungs_as_dark_as_air_are_found_and_doubted(level):
    chest = Chest(level=level)
    table(chest)
    mask, doubts = derived(chest.image())
    assert dice(mask, chest.lung) > 0.98
    assert doubts == (["parts as dark as the air of the room"] if level < -970 else [])


@pytest.mark.parametrize("noise", [60.0, 150.0])
def test_noise_of_a_low_dose_does_not_matter(noise):
    chest = Chest(noise=noise)
    table(chest)
    for part in (slice(None), MIDDLE):
        assert dice(derived(chest.image()[part])[0], chest.lung[part]) > 0.97


@pytest.mark.parametrize("seed", range(8))
def test_random_patients_on_random_mats(seed):
    """A property: whatever the mat, the lung lies inside the body."""
    rng = np.random.default_rng(seed)
    chest = Chest(seed, level=rng.uniform(-930, -800), noise=rng.uniform(5, 60))
    mat(chest, rng.uniform(-700, -190), int(rng.integers(112, 137)))
    for place in (table, arms, blanket):
        if rng.random() < 0.5:
            place(chest)
    hu = chest.image()
    for part in (slice(None), MIDDLE):
        mask, doubts = derived(hu[part])
        assert not (mask & ~chest.trunk[part]).any()
        assert dice(mask, chest.lung[part]) > 0.97
        assert doubts == []


def test_lungs_that_the_image_cuts_are_found_and_doubted():
    chest = Chest()
    table(chest)
    hu = chest.image()
    for box in (np.s_[:, :, 45:118], np.s_[:, 30:80]):
        mask, doubts = derived(hu[box])
        assert dice(mask, chest.lung[box]) > 0.98
        assert "cut by the edge of the image" in doubts


def test_an_image_inside_the_chest_gets_no_slab_of_mediastinum():
    chest = Chest()
    box = np.s_[:, 20:80, 66:124]
    hu = chest.image()[box]
    hu[:, 28:34, -2:] = -1000.0  # a bronchus at the edge looks like air outside the body
    mask, _ = derived(hu)
    outside = mask & ~chest.lung[box]
    outside[:, 26:36, -4:] = False
    assert outside.sum() < 0.01 * mask.sum()


def front(*, medial: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A body (1, y, x), a lung in its left half with a dent below the skin, and that dent: heart, or consolidation."""
    body, lung = np.zeros((1, 140, 220), bool), np.zeros((1, 140, 220), bool)
    body[:, 10:130, 10:210] = True
    lung[:, 16:76, 50:100] = True
    dent = np.zeros_like(lung)
    dent[:, 22:38, 70:100] = medial
    dent[:, 16:30, 62:88] = not medial
    return body, lung & ~dent, dent


def test_the_heart_just_below_the_breastbone_is_not_taken_for_a_consolidation():
    """The hull of a lung would close both; the heart's side of it faces the middle of the body."""
    for medial in (True, False):
        body, lung, dent = front(medial=medial)
        added = costal_dents(lung, body, np.zeros(body.shape), (5.0, 2.0, 2.0))
        assert (added & dent).sum() == 0 if medial else (added & dent).sum() > 0.9 * dent.sum()


def test_without_skin_in_the_image_no_hull_is_closed():
    """A bronchus at the edge of an image inside the chest looks like air outside the body."""
    body = np.ones((1, 100, 100), bool)
    body[:, 40:44, -2:] = False
    lung = np.zeros_like(body)
    lung[:, 5:95, 5:70] = True
    lung[:, 30:55, 45:] = False
    assert not costal_dents(lung, body, np.zeros(body.shape), (5.0, 1.5, 1.5)).any()


@pytest.mark.parametrize(
    ("place", "expected"),
    [(opacified, "lungs of unequal size"), (pneumothorax, "parts as dark as the air of the room")],
)
def test_disease_that_misleads_thresholds_is_doubted(place, expected):
    chest = Chest()
    place(chest)
    assert expected in derived(chest.image()[MIDDLE])[1]


def doubts_about(chest: Chest, mask: np.ndarray) -> list[str]:
    hu = chest.image().astype(np.float32)
    notes = lung_notes(hu, mask, body_mask(hu, SPACING), SPACING, "thresholds")
    return [note.what.removeprefix(DOUBT) for note in notes[1:]]


def test_a_wrong_mask_is_announced():
    """What earlier versions made of a mat: air behind the back, and a straight slab through the chest wall."""
    chest = Chest()
    mat(chest)
    assert doubts_about(chest, chest.lung) == []
    behind = chest.lung | ((chest.y > 97) & (chest.y < 106) & (abs(chest.x - 80) < 30))
    assert "outside the body or just below the skin" in doubts_about(chest, behind)
    slab = chest.lung | ((chest.y > 40) & (chest.y < 70) & (abs(chest.x - 80) < 20))
    assert "straight edges through soft tissue" in doubts_about(chest, slab)
    ring = chest.lung & ~chest.ball((9, 54, 50), (12, 12, 9))
    assert "holes" in doubts_about(chest, ring)


def test_volumes_out_of_range_and_slices_with_hardly_any_lung_are_doubted():
    chest = Chest()
    hu, body = chest.image().astype(np.float32), chest.trunk
    for spacing, expected in (((12.0, 1.0, 1.0), True), ((4.0, 2.5, 2.5), False), ((12.0, 6.0, 6.0), True)):
        names = [note.what for note in lung_notes(hu, chest.lung, body, spacing, "thresholds")]
        assert (f"{DOUBT}volume outside 1 to 9 l" in names) == expected, spacing
    small = chest.lung[MIDDLE] & (chest.y > 60) & (chest.y < 64)
    names = [note.what for note in lung_notes(hu[MIDDLE], small, body[MIDDLE], SPACING, "thresholds")]
    assert f"{DOUBT}unusual share of the body" in names
