"""Names of structures come from headers and from files beside label maps, since values follow the order of drawing."""

from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions
from nnunet_difflung.dataset_conversion.archive.volumes import find_sources
from nnunet_difflung.errors import BadInput
from tests.support.archives import chest, like

SHAPE = (4, 64, 64)
LUNG, TUMOUR = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
LUNG[:, 20:50, 10:30], TUMOUR[1:3, 28:34, 18:22] = True, True


def labels(order):
    array = np.zeros(SHAPE, np.uint8)
    for value, name in order.items():
        array[LUNG if name == "lung" else TUMOUR] = value
    if list(order.values())[-1] == "lung":
        array[TUMOUR] = next(iter(order))
    return array


def write(folder, patient, label, metadata=None, ending=".seg.nrrd", image_ending=".nrrd"):
    folder.mkdir(exist_ok=True)
    image = like(chest(1)[0])
    sitk.WriteImage(image, str(folder / f"{patient}{image_ending}"))
    mask = label if isinstance(label, sitk.Image) else like(label)
    for key, text in (metadata or {}).items():
        mask.SetMetaData(key, text)
    sitk.WriteImage(mask, str(folder / f"{patient}{ending}"))


def slicer(segments):
    """Entries of a header for (name, value, layer); None leaves value or layer out, as old versions did."""
    entries = {}
    for k, (name, value, layer) in enumerate(segments):
        entries |= {f"Segment{k}_ID": f"Segment_{k + 1}", f"Segment{k}_Name": name, f"Segment{k}_Color": "0.5 0.5 0.5"}
        entries |= {} if value is None else {f"Segment{k}_LabelValue": str(value)}
        entries |= {} if layer is None else {f"Segment{k}_Layer": str(layer)}
    return entries


def masks(source):
    scan = source.load()
    return {name: sitk.GetArrayFromImage(scan.structures[name]) > 0 for name in scan.structures}


def vector(*layers):
    return sitk.Compose(*[like(layer.astype(np.uint8)) for layer in layers])


def test_slicer_segments_have_their_names_whatever_their_values_and_order(tmp_path):
    order = {"p1": {1: "lung", 2: "tumour"}, "p2": {1: "tumour", 2: "lung"}, "p3": {7: "lung", 3: "tumour"}}
    for patient, names in order.items():
        write(tmp_path / "a", patient, labels(names), slicer([(name, value, 0) for value, name in names.items()]))
    sources, _ = find_sources(tmp_path / "a", ArchiveOptions())
    assert [source.patient for source in sources] == ["p1", "p2", "p3"]
    for source in sources:
        assert source.listing().structures == ("lung", "tumour")
        found = masks(source)
        assert (found["tumour"] == TUMOUR).all()
        assert (found["lung"] == (LUNG & ~TUMOUR)).all()


@pytest.mark.parametrize(
    "segments",
    [
        [("lung", 1, 0), ("tumour", 1, 1)],
        [("tumour", 1, 1), ("lung", 1, 0)],
        [("lung", None, None), ("tumour", None, None)],  # 3D Slicer 4.10 and before: a layer for each segment
    ],
)
@pytest.mark.parametrize("kind", ["vector", "list"])
def test_segments_that_overlap_are_in_layers(tmp_path, segments, kind):
    write(tmp_path / "a", "p1", vector(LUNG, TUMOUR), slicer(segments))
    file = tmp_path / "a" / "p1.seg.nrrd"
    file.write_bytes(file.read_bytes().replace(b"kinds: vector", f"kinds: {kind}".encode()))
    ((source,), _) = find_sources(tmp_path / "a", ArchiveOptions())
    found = masks(source)
    assert (found["tumour"] == TUMOUR).all()
    assert (found["lung"] == LUNG).all()


def test_values_that_the_header_does_not_name_are_called_by_their_number(tmp_path):
    label = labels({1: "lung", 2: "tumour"})
    write(tmp_path / "a", "p1", label, slicer([("lung", 1, 0)]))
    ((source,), _) = find_sources(tmp_path / "a", ArchiveOptions())
    assert source.listing().structures == ("label 2", "lung")
    assert (masks(source)["label 2"] == TUMOUR).all()


def test_segments_of_the_same_name_are_merged_with_a_note(tmp_path):
    label = labels({1: "lung", 2: "tumour"})
    write(tmp_path / "a", "p1", label, slicer([("lung", 1, 0), ("lung", 2, 0)]))
    ((source,), _) = find_sources(tmp_path / "a", ArchiveOptions())
    assert (masks(source)["lung"] == (LUNG | TUMOUR)).all()
    assert [(note.kind, note.count) for note in source.load().notes] == [("merged", 2)]


@pytest.mark.parametrize(
    ("label", "segments", "message"),
    [
        (labels({1: "lung", 2: "tumour"}), [("lung", None, None), ("tumour", None, None)], "not their values"),
        (labels({1: "lung", 2: "tumour"}), [("lung", 1, 0), ("tumour", 1, 0)], "names 'lung' and 'tumour'"),
        (labels({1: "lung", 2: "tumour"}), [("lung", 1, 3)], "is in layer 3, but the file has 1"),
        (labels({1: "lung", 2: "tumour"}), [("lung", "one", 0)], "value or layer 'one'"),
    ],
)
def test_a_header_that_contradicts_itself_is_refused(tmp_path, label, segments, message):
    write(tmp_path / "a", "p1", label, slicer(segments))
    ((source,), _) = find_sources(tmp_path / "a", ArchiveOptions())
    with pytest.raises(BadInput, match=message):
        source.load()


def test_a_structure_in_two_files_of_a_patient_is_refused(tmp_path):
    label = labels({1: "lung", 2: "tumour"})
    for reader in ("readerA", "readerB"):
        write(tmp_path / reader, "ct", label, slicer([("lung", 1, 0)]))
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / reader / "ct.seg.nrrd").rename(tmp_path / "a" / f"{reader}.seg.nrrd")
    (tmp_path / "readerA" / "ct.nrrd").rename(tmp_path / "a" / "ct.nrrd")
    ((source,), _) = find_sources(tmp_path / "a", ArchiveOptions())
    with pytest.raises(BadInput, match="structure 'lung' is also in"):
        source.load()


@pytest.mark.parametrize("form", ["groups", "lists"])
def test_mitk_names_its_labels_in_json(tmp_path, form):
    for patient, order in (("p1", {1: "lung", 2: "tumour"}), ("p2", {1: "tumour", 2: "lung"})):
        listed = [{"name": name, "value": value, "color": {"value": [1, 0, 0]}} for value, name in order.items()]
        groups = [{"labels": listed}] if form == "groups" else [listed]
        entry = {"org.mitk.multilabel.segmentation.labelgroups": json.dumps(groups)}
        write(tmp_path / "a", patient, labels(order), entry, "_seg.nrrd")
    for source in find_sources(tmp_path / "a", ArchiveOptions())[0]:
        assert (masks(source)["tumour"] == TUMOUR).all()


def test_a_label_table_in_a_nifti_header_names_the_values(tmp_path):
    nib = pytest.importorskip("nibabel")
    for patient, order in (("p1", {1: "lung", 2: "tumour"}), ("p2", {1: "tumour", 2: "lung"})):
        write(tmp_path / "a", patient, labels(order), ending="_seg.nii.gz", image_ending=".nii.gz")
        path = tmp_path / "a" / f"{patient}_seg.nii.gz"
        nifti = nib.load(path)
        rows = "".join(f'<Label Key="{v}" Red="1"><![CDATA[{n}]]></Label>\n' for v, n in order.items())
        table = (
            f'<?xml version="1.0" encoding="UTF-8"?> <CaretExtension><LabelTable>{rows}</LabelTable></CaretExtension>'
        )
        nifti.header.extensions.append(nib.nifti1.Nifti1Extension(0, table.encode() + b" \n"))
        nib.save(nib.Nifti1Image(np.asarray(nifti.dataobj), nifti.affine, nifti.header), path)
    for source in find_sources(tmp_path / "a", ArchiveOptions())[0]:
        assert source.listing().structures == ("lung", "tumour")
        assert (masks(source)["tumour"] == TUMOUR).all()


SNAP = '# ITK-SnAP Label Description File\n    0     0    0    0        0  0  0    "Clear Label"\n'


def snap(order):
    return SNAP + "".join(f'{v:5d}   255    0    0        1  1  1    "{name}"\n' for v, name in order.items())


def test_a_label_description_beside_a_label_map_names_the_values(tmp_path):
    for patient, order in (("p1", {1: "lung", 2: "tumour"}), ("p2", {1: "tumour", 2: "lung"})):
        write(tmp_path / "a", patient, labels(order), ending="_seg.nii.gz", image_ending=".nii.gz")
        (tmp_path / "a" / f"{patient}_seg.txt").write_text(snap(order))
    (tmp_path / "a" / "readme.txt").write_text("Two patients.\n")
    for source in find_sources(tmp_path / "a", ArchiveOptions())[0]:
        assert (masks(source)["tumour"] == TUMOUR).all()
        assert any("names the structures" in note.text for note in source.load().notes)


def test_one_label_description_for_all(tmp_path):
    for patient in ("p1", "p2"):
        write(tmp_path / "a", patient, labels({1: "lung", 2: "tumour"}), ending="_seg.nii.gz", image_ending=".nii.gz")
    (tmp_path / "a" / "labels.label").write_text(snap({1: "lung", 2: "tumour"}))
    assert find_sources(tmp_path / "a", ArchiveOptions())[0][0].listing().structures == ("lung", "tumour")


@pytest.mark.parametrize(
    "described", [{"background": 0, "lung": 1, "tumour": 2}, {"0": "b", "1": "lung", "2": "tumour"}]
)
def test_dataset_json_names_the_values_of_an_nnunet_dataset(tmp_path, described):
    for part, array in (("imagesTr", chest(1)[0]), ("labelsTr", labels({1: "lung", 2: "tumour"}))):
        (tmp_path / part).mkdir()
        for patient in ("p1", "p2"):
            name = f"{patient}_0000.nii.gz" if part == "imagesTr" else f"{patient}.nii.gz"
            sitk.WriteImage(like(array), str(tmp_path / part / name))
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": described}))
    assert find_sources(tmp_path, ArchiveOptions())[0][0].listing().structures == ("lung", "tumour")
