"""Guesses for a first mapping, images without a body, and archives whose first patients are faulty."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.imaging import lung_mask
from nnunet_difflung.dataset_conversion.pipeline import archive
from nnunet_difflung.dataset_conversion.pipeline.leaving_out import MOST_LISTED
from nnunet_difflung.dataset_conversion.pipeline.listing import _label_of
from nnunet_difflung.errors import BadInput


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("left lung", "normal_lung"),
        ("lung_lower_lobe_right", "normal_lung"),
        ("Lung_R", "normal_lung"),
        ("healthy", "normal_lung"),
        ("lung_nodules", "tumour"),
        ("Lung tumor", "tumour"),
        ("lung-cancer", "tumour"),
        ("Lung GGO", "ground_glass"),
        ("lung consolidation", "consolidation"),
        ("lung_opacity", "lung_opacity"),
        ("diseased lung", "diseased_lung"),
        ("lung_vessels", "lung_vessels"),
    ],
)
def test_a_finding_with_lung_in_its_name_is_not_normal_lung(name, label):
    assert _label_of(name, {}) == label


def test_an_image_of_nothing_but_lung_has_no_body_and_no_derived_lung_but_what_is_drawn():
    hu, lesion = np.full((3, 60, 60), -1000, np.int16), np.zeros((3, 60, 60), np.uint8)
    lesion[:, 20:40, 20:40] = 1
    hu[lesion == 1] = -600
    image = sitk.GetImageFromArray(hu)
    assert np.array_equal(lung_mask._derived(image, lesion, None, "threshold").mask, lesion)


@pytest.mark.parametrize("skipped", [True, False])
def test_faulty_patients_end_a_conversion_unless_they_are_skipped(monkeypatch, skipped):
    monkeypatch.setattr(archive, "_check_channel", lambda *_: None)
    patients = [SimpleNamespace(name=f"p{n:03d}", patient=f"p{n:03d}") for n in range(MOST_LISTED + 5)]

    def work(patient):
        if patients.index(patient) < MOST_LISTED:
            raise BadInput("no HU")
        return {"channel": "CT"}

    done, faulty = archive._converted(work, patients, 1, SimpleNamespace(), skipped)
    assert len(faulty) == MOST_LISTED
    assert len(done) == (5 if skipped else 0)
