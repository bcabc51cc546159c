"""Which label map belongs to which image: by the name of the scan, never because one name begins another."""

from __future__ import annotations

import unicodedata

import pytest

from nnunet_difflung.dataset_conversion.archive.pairing import natural, pair_files


def paired(images, masks, root="archive"):
    """Image → {name of the label map: path}, and label maps without an image."""
    pairs, orphans = pair_files(images, masks, root)
    return {pair.image: dict(pair.masks) for pair in pairs}, orphans


def volumes(folder, *names):
    return [f"{folder}/{name}.nii.gz" for name in names]


def test_names_that_begin_alike_have_their_own_label_maps():
    names = ("p1", "p1_2", "p10", "p1_10")
    assert paired(volumes("images", *names), volumes("labels", *names)) == (
        {f"images/{name}.nii.gz": {"labels": f"labels/{name}.nii.gz"} for name in names},
        [],
    )


@pytest.mark.parametrize("lost", ["p1_2", "p1-2", "p1.2", "p10", "p1_10", "p1_followup", "p1_b", "p1_v2", "p1_2019"])
@pytest.mark.parametrize("ending", ["", "_seg", "-label", "_mask", ".seg"])
@pytest.mark.parametrize("images", [("p1",), ("p1", "p2"), ("p1", "p2", "p3")])
@pytest.mark.parametrize("own", [True, False])
def test_a_label_map_without_its_image_goes_to_no_other(lost, ending, images, own):
    with_label = images if own else images[1:]
    masks = volumes("labels", *[f"{name}{ending}" for name in (*with_label, lost)])
    found, orphans = paired(volumes("images", *images), masks)
    assert orphans == [f"labels/{lost}{ending}.nii.gz"]
    assert list(found["images/p1.nii.gz"].values()) == ([f"labels/p1{ending}.nii.gz"] if own else [])


def test_all_label_maps_without_an_image_are_told():
    masks = volumes("labels", "p1", "p2", "p3", "p4", "p1_2")
    assert paired(volumes("images", "p1", "p2"), masks)[1] == volumes("labels", "p1_2", "p3", "p4")


def test_visits_of_patients_whose_images_are_missing_are_no_structures():
    masks = volumes("labels", "p1_2", "p2_2", "p3_2")
    assert paired(volumes("images", "p1", "p2", "p3"), masks)[1] == masks


@pytest.mark.parametrize(
    "name",
    ["p1_lung", "p1_Lungs", "p1-GTV1", "p1_label_2", "p1_seg", "p1.seg", "p1_emphysema", "p1_consolidation_left"],
)
def test_what_is_drawn_follows_the_name_of_the_scan(name):
    found, orphans = paired(["p1.nii.gz", "p2.nii.gz"], [f"{name}.nii.gz", "p2_lung.nii.gz"])
    assert orphans == []
    assert list(found["p1.nii.gz"].values()) == [f"{name}.nii.gz"]


LAYOUTS = [  # images, label maps
    (["p1/ct.nii.gz", "p2/ct.nii.gz"], ["p1/lung.nii.gz", "p2/lung.nii.gz", "p2/old.nii.gz"]),
    (["p1/ct.nii.gz"], ["p1/lung.nii.gz", "p1/masks/emphysema.nii.gz"]),
    (["volume-0.nii", "volume-10.nii"], ["segmentation-0.nii", "segmentation-10.nii"]),
    (["imagesTr/p1_0000.nii.gz", "imagesTr/p12_0000.nii.gz"], ["labelsTr/p1.nii.gz", "labelsTr/p12.nii.gz"]),
    (["img/img0001.nii.gz", "img/img0002.nii.gz"], ["label/label0001.nii.gz", "label/label0002.nii.gz"]),
    (["ct/1.png", "ct/2.png"], ["lungs/1.png", "lungs/2.png", "covid/1.png", "covid/2.png"]),
    (["ct.nii.gz"], ["seg.nii.gz"]),
    (["a/CT_chest.nrrd"], ["a/Segmentation.seg.nrrd"]),
    (["s0001/ct.nii.gz"], ["s0001/segmentations/lung_upper_lobe_left.nii.gz", "s0001/segmentations/heart.nii.gz"]),
]


@pytest.mark.parametrize(("images", "masks"), LAYOUTS)
def test_layouts_in_common_use(images, masks):
    found, orphans = paired(images, masks)
    assert orphans == []
    assert sorted(path for of_image in found.values() for path in of_image.values()) == sorted(masks)
    for image, of_image in found.items():
        if len(images) > 1:
            number = [part for part in image.replace("0000", "") if part.isdigit()]
            assert all([c for c in mask if c.isdigit()] == number for mask in of_image.values())


def test_a_number_alone_is_a_guess():
    images, masks = ["a/siteA1.nii.gz", "a/siteA2.nii.gz"], ["b/readerB1.nii.gz", "b/readerB2.nii.gz"]
    assert [pair.guessed for pair in pair_files(images, masks, "x")[0]] == [True, True]
    assert not any(pair.guessed for pair in pair_files(volumes("a", "p1", "p2"), volumes("b", "p1", "p2"), "x")[0])


def test_accents_may_be_composed_or_decomposed():
    names = ["Müller", "Å 2", "José_lung"]
    images = volumes("images", *[unicodedata.normalize("NFC", name) for name in names])
    masks = volumes("labels", *[unicodedata.normalize("NFD", name) for name in names])
    assert set(images).isdisjoint(path.replace("labels", "images") for path in masks)
    found, orphans = paired(images, masks)
    assert orphans == []
    for image, mask in zip(images, masks, strict=True):
        assert list(found[image].values()) == [mask]
    named = {pair.name for pair in pair_files(masks, images, "x")[0]}
    assert named == {unicodedata.normalize("NFC", name) for name in names}


def test_names_with_raised_digits_are_sorted():
    """Which ``isdigit`` takes for digits, and ``int`` does not."""
    assert sorted(["²", "1²10", "1²3"], key=natural) == ["1²3", "1²10", "²"]
