"""Guesses for a first mapping, images without a body, and archives whose first patients are faulty."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.archive.grouping import Named, grouped
from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions
from nnunet_difflung.dataset_conversion.dicom.headers import Person
from nnunet_difflung.dataset_conversion.dicom.patients import _names, _same_person
from nnunet_difflung.dataset_conversion.imaging import lung_mask
from nnunet_difflung.dataset_conversion.imaging.repair import fill_holes
from nnunet_difflung.dataset_conversion.notes import Note
from nnunet_difflung.dataset_conversion.pipeline import archive, patient
from nnunet_difflung.dataset_conversion.pipeline.leaving_out import MOST_LISTED
from nnunet_difflung.dataset_conversion.pipeline.listing import _label_of
from nnunet_difflung.dataset_conversion.pipeline.mapping import parse_mapping
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


def test_patients_without_an_id_keep_the_names_of_their_folders_where_others_share_one():
    """Else nobody sees that two folders may be of one patient."""
    homes = [("dump",), ("dump",), ("smith_2019",), ("smith_2021",)]
    assert _names(homes, Path("archive")) == ["p001", "p002", "smith_2019", "smith_2021"]
    assert _names([("p002",), ("dump",), ("dump",)], Path("archive")) == ["p002", "p002_shared", "p003"]
    assert _names([("dump",), ("dump",)], Path("archive")) == ["p001", "p002"]
    scans = [Named("p001", told="a"), Named("p002", told="b"), Named("smith_2019"), Named("smith_2021")]
    assert grouped(scans, "dicom", ArchiveOptions()).refusal is not None


def test_slices_that_form_no_volume_have_lungs_of_their_own(monkeypatch):
    seen = []

    def derive(image, lesion, backend):
        seen.append(image.GetSize())
        if len(seen) == 2:
            raise BadInput("no lung was found")
        notes = (Note(f"{len(seen)} ml", what="lungs found"), *[Note("odd")] * (len(seen) == 3))
        return lung_mask.DerivedLungs(np.ones(image.GetSize()[::-1], np.uint8), notes)

    monkeypatch.setattr(patient, "derive_lungs", derive)
    image, label = sitk.Image([20, 30, 3], sitk.sitkInt16), np.zeros((3, 30, 20), np.uint8)
    mapping = parse_mapping({"labels": {"normal_lung": [], "GGO": ["ggo"]}, "lung": "threshold"})
    lungs = patient._lungs_of_each(image, label, mapping, "here")
    assert seen == [(20, 30, 1)] * 3
    assert lungs.mask.any((1, 2)).tolist() == [True, False, True]
    assert [note.text for note in lungs.notes] == ["1 ml (other slices with this: 1)", "odd"]


@pytest.mark.parametrize("name", ["normal_lung", "Lung", "healthy lung"])
def test_the_label_of_normal_lung_is_the_one_that_is_derived(name):
    for structures in ([], ["lung"]):
        mapping = parse_mapping({"labels": {name: structures, "GGO": ["ggo"]}, "lung": "threshold"})
        assert mapping.labels == {"background": 0, name: 1, "GGO": 2}
        assert mapping.normal == 1
    assert list(parse_mapping({"labels": {"GGO": ["ggo"]}, "lung": "threshold"}).labels)[1] == "normal_lung"


def test_the_dome_of_the_diaphragm_is_no_hole_of_the_lung_and_vessels_and_masses_are():
    z, y, x = np.mgrid[:20, :100, :100]
    lung = (y - 50) ** 2 + (x - 50) ** 2 < 45**2
    dome = (z + 6) ** 2 + (y - 50) ** 2 + (x - 50) ** 2 < 20**2  # goes on below the first slice
    vessel = (y - 25) ** 2 + (x - 25) ** 2 < 4**2
    tumour = (z - 12) ** 2 + (y - 70) ** 2 + (x - 60) ** 2 < 6**2
    filled = fill_holes(lung & ~dome & ~vessel & ~tumour, (2.0, 1.0, 1.0))
    large = dome & (dome.sum((1, 2), keepdims=True) > 700)
    assert large.any()
    assert not (filled & large).any()
    assert filled[vessel].all()
    assert filled[tumour].all()


@pytest.mark.parametrize(("name", "joined"), [("ANONYMOUS^PATIENT", False), ("Anon^", False), ("Doe^Anna", True)])
def test_a_name_of_nobody_joins_no_patients(name, joined):
    def file(patient_id: str, name: str, born: str):
        return Person(patient_id, name, born), SimpleNamespace(path=f"{patient_id}/1.dcm")

    files = [file(patient_id, name, "19000101") for patient_id in "abc"] + [file("d", "Roe^Jane", "19500203")]
    assert bool(_same_person(files)) is joined
