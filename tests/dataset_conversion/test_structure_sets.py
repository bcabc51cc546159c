"""Structure sets as real systems write them: what can be read is read, and what is odd is counted or refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom")

from pydicom.dataset import Dataset  # noqa: E402

from nnunet_difflung.dataset_conversion.accept import Accept  # noqa: E402
from nnunet_difflung.dataset_conversion.dicom.source import DicomSource, find_sources  # noqa: E402
from nnunet_difflung.dataset_conversion.pipeline.mapping import LabelMapping, Rule  # noqa: E402
from nnunet_difflung.dataset_conversion.pipeline.options import ConvertOptions  # noqa: E402
from nnunet_difflung.dataset_conversion.pipeline.patient import label_scan  # noqa: E402
from nnunet_difflung.errors import BadInput  # noqa: E402
from tests.support import sources  # noqa: E402
from tests.support.dicom_files import numbers, write_ct, write_rtstruct  # noqa: E402
from tests.support.sources import counted  # noqa: E402

SIZE, SPACING, ORIGIN = (48, 40, 12), (2.0, 2.0, 5.0), (-10.0, 20.0, 300.0)
AREA = 10 * 8  # pixels of ``box``


def ct(depth: int = SIZE[2], step: float = SPACING[2]) -> sitk.Image:
    values = np.random.default_rng(0).integers(-1024, 1500, (depth, *SIZE[1::-1])).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((*SPACING[:2], step))
    image.SetOrigin(ORIGIN)
    return image


def box(z: float, x0: float = 10, y0: float = 10, width: float = 10, height: float = 8) -> np.ndarray:
    """Contour (mm) around whole pixels of the slice z of the image."""
    index = [[x0, y0], [x0 + width, y0], [x0 + width, y0 + height], [x0, y0 + height]]
    return np.column_stack([np.array(index) - 0.5, np.full(4, z)]) * SPACING + ORIGIN


def boxes(heights, referenced: bool = False) -> list:
    return [(round(z) if referenced else None, box(z)) for z in heights]


def patient(
    folder: Path,
    structures: dict[str, list],
    change: Callable | None = None,
    accept: tuple[Accept, ...] = (),
    kind: str = "CLOSED_PLANAR",
) -> DicomSource:
    slices = write_ct(folder / "p", ct())
    write_rtstruct(folder / "p" / "rs", slices, structures, kind, change)
    return find_sources(folder, accept=frozenset(accept))[0]


def slices_of(source: DicomSource, name: str = "x") -> list[int]:
    array = sitk.GetArrayFromImage(source.load().structures[name])
    return np.flatnonzero(array.any(axis=(1, 2))).tolist()


def refused(source: DicomSource) -> str:
    line = sources.refused(source)
    assert "truncated" not in line
    return line


# contours between the slices


@pytest.mark.parametrize(
    ("shift", "first"), [(0.5, 2), (0.49, 2), (-0.5, 1), (0.25, 2), (0.75, 3), (-0.25, 2), (0.51, 3)]
)
def test_contours_off_the_slices_are_as_many_slices_in_a_row(tmp_path, shift, first):
    source = patient(tmp_path, {"x": boxes(np.arange(2, 10) + shift)})
    assert slices_of(source) == list(range(first, first + 8))
    assert sitk.GetArrayFromImage(source.load().structures["x"]).sum() == 8 * AREA
    assert counted(source) == {("moved", 8, "contours between two slices, moved to the nearer slice")}
    direction = "first" if first <= 2 + shift else "last"
    (note,) = source.load().notes
    assert note.text.endswith(f"all by {abs(first - 2 - shift) * 5:.2f} mm towards the {direction} slice")


def test_the_slices_that_the_file_names_decide_between_two_directions(tmp_path):
    named = [(z + 1, box(z + 0.5)) for z in range(2, 10)]
    assert slices_of(patient(tmp_path, {"x": named})) == list(range(3, 11))


def test_contours_on_every_second_slice_leave_the_others_empty_and_are_counted(tmp_path):
    source = patient(tmp_path, {"x": boxes([1, 3, 5, 7])})
    assert slices_of(source) == [1, 3, 5, 7]
    what = "slices without a contour between the first and the last one of a structure, left without it"
    assert counted(source) == {("guessed", 3, what)}


def test_contours_twice_as_dense_as_the_slices_keep_their_volume(tmp_path):
    source = patient(tmp_path, {"x": boxes(np.arange(2, 8, 0.5))})
    assert slices_of(source) == [2, 3, 4, 5, 6, 7]
    assert ("dropped", 6, "contours ignored, since a contour nearer to the same slice exists") in counted(source)


def test_contours_of_thicker_slices_need_a_decision_and_then_leave_no_gap(tmp_path):
    heights = np.arange(1, 10, 1.5)
    line = refused(patient(tmp_path, {"x": boxes(heights)}))
    assert "'x' lie 7.50 mm apart, the CT slices 5.00 mm" in line
    assert "--accept moved-contours" in line
    source = find_sources(tmp_path, accept=frozenset({Accept.MOVED_CONTOURS}))[0]
    assert slices_of(source) == list(range(1, 10))
    assert ("guessed", 3, "slices filled between contours that were drawn on thicker slices") in counted(source)


# series that are missing


def on_thick_slices(
    folder: Path, change: Callable | None = None, accept=(), frame: str | None = "1.2.9"
) -> DicomSource:
    """Contours of a series with slices of 15 mm, next to a series of the same place with slices of 5 mm."""
    write_ct(folder / "p", ct(), frame="1.2.9")
    thick = write_ct(folder.with_name("not exported"), ct(4, 15.0), frame=frame)
    write_rtstruct(folder / "p" / "rs", thick, {"x": [(z, box(3 * z)) for z in (1, 2, 3)]}, change=change)
    return find_sources(folder, accept=frozenset(accept))[0]


def without_references(data) -> None:
    del data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence
    for item in data.ROIContourSequence[0].ContourSequence:
        del item.ContourImageSequence


def test_contours_of_a_series_that_is_missing_are_refused_or_fill_the_slices_between(tmp_path):
    source = on_thick_slices(tmp_path / "a")
    line = refused(source)
    assert "rs was drawn on a series not in the archive" in line
    assert "15 mm apart, the slices 5 mm" in line
    assert line.endswith("that is there)")
    assert source.listing().problems == (line,)
    source = find_sources(tmp_path / "a", accept=frozenset({Accept.OTHER_SERIES}))[0]
    assert slices_of(source) == list(range(2, 11))
    what = "files with structures that were drawn on a series not in the archive, placed by their positions"
    assert ("moved", 1, what) in counted(source)
    assert ("guessed", 6, "slices filled between contours that were drawn on thicker slices") in counted(source)


def test_contours_without_references_on_every_third_slice_are_refused(tmp_path):
    assert "does not say which series it was drawn on" in refused(on_thick_slices(tmp_path / "a", without_references))
    source = on_thick_slices(tmp_path / "b", without_references, [Accept.OTHER_SERIES])
    assert slices_of(source) == list(range(2, 11))


def test_a_single_contour_of_a_series_that_is_missing_is_refused(tmp_path):
    def one_contour(data):
        del data.ROIContourSequence[0].ContourSequence[1:]

    assert "not in the archive" in refused(on_thick_slices(tmp_path / "a", one_contour))
    line = refused(on_thick_slices(tmp_path / "b", one_contour, [Accept.OTHER_SERIES]))
    assert "a single contour does not tell how thick the slices were" in line


def test_contours_of_another_frame_of_reference_are_refused_unless_accepted(tmp_path):
    assert "another frame of reference" in refused(on_thick_slices(tmp_path / "a", frame="1.2.8"))
    source = on_thick_slices(tmp_path / "b", accept=[Accept.OTHER_SERIES], frame="1.2.8")
    assert slices_of(source) == list(range(2, 11))


def test_new_uids_do_not_matter_where_the_contours_lie_on_the_slices(tmp_path):
    def anonymised(data):
        study = data.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        study.RTReferencedSeriesSequence[0].SeriesInstanceUID = "1.2.7"
        for number, item in enumerate(data.ROIContourSequence[0].ContourSequence):
            item.ContourImageSequence[0].ReferencedSOPInstanceUID = f"1.2.7.{number}"

    source = patient(tmp_path, {"x": boxes(range(3, 8), referenced=True)}, anonymised)
    assert slices_of(source) == [3, 4, 5, 6, 7]
    assert {kind for kind, _, _ in counted(source)} == {"guessed"}


# odd items


def closed(points, kind: str | None = "CLOSED_PLANAR") -> Dataset:
    item = Dataset()
    if kind is not None:
        item.ContourGeometricType = kind
    item.NumberOfContourPoints = 0 if points is None else len(points)
    item.ContourData = None if points is None else numbers(points)
    return item


def _without_data(data):
    item = closed(None)
    del item.ContourData
    data.ROIContourSequence[0].ContourSequence.append(item)


def _added(*items):
    return lambda data: data.ROIContourSequence[0].ContourSequence.extend(items)


def _without_type(data):
    del data.ROIContourSequence[0].ContourSequence[1].ContourGeometricType


LINE = np.array([box(5)[0], box(5)[1], box(5)[0] + [3, 0, 0], box(5)[0] + [9, 0, 0]])


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (_without_data, ("dropped", 1, "contours without points ignored")),
        (_added(closed(None), closed(None)), ("dropped", 2, "contours without points ignored")),
        (_without_type, ("guessed", 1, "contours without ContourGeometricType, taken as closed")),
        (_added(closed(box(5)[:1])), ("dropped", 1, "contours closed with fewer than 3 points ignored")),
        (_added(closed(box(5)[:2])), ("dropped", 1, "contours closed with fewer than 3 points ignored")),
        (_added(closed(box(5)[[0, 1, 0, 1]])), ("dropped", 1, "contours closed with fewer than 3 points ignored")),
        (_added(closed(LINE)), ("dropped", 1, "contours whose points lie in a straight line ignored")),
        (_added(closed(box(5)[:1], "POINT")), ("dropped", 1, "contours of type POINT ignored")),
        (_added(closed(box(5), "OPEN_PLANAR")), ("dropped", 1, "contours of type OPEN_PLANAR ignored")),
        (_added(closed(box(5), "OPEN_NONPLANAR")), ("dropped", 1, "contours of type OPEN_NONPLANAR ignored")),
        (_added(closed(box(4))), ("merged", 1, "contours repeated in the file, used once")),
        (_added(closed(box(4)[[2, 3, 0, 1]])), ("merged", 1, "contours repeated in the file, used once")),
        (_added(closed(box(4)[::-1])), ("merged", 1, "contours repeated in the file, used once")),
        (_added(closed(box(4).repeat(2, axis=0))), ("merged", 1, "contours repeated in the file, used once")),
    ],
)
def test_odd_items_are_counted_and_the_structure_is_read(tmp_path, change, note):
    source = patient(tmp_path, {"x": boxes([2, 3, 4], referenced=True)}, change)
    assert sitk.GetArrayFromImage(source.load().structures["x"]).sum() == 3 * AREA
    assert slices_of(source) == [2, 3, 4]
    assert counted(source) == {note}
    assert source.listing().problems == ()


def _edited(folder: Path, edit: Callable[[bytes], bytes]) -> DicomSource:
    """A patient whose first contour's text was changed; its length stays."""
    patient(folder, {"x": boxes([2, 3, 4], referenced=True), "y": boxes([6, 7])})
    path = folder / "p" / "rs"
    content = path.read_bytes()
    start = content.index(b"\x06\x30\x50\x00DS") + 8
    end = start + int.from_bytes(content[start - 2 : start], "little")
    edited = edit(content[start:end])
    assert len(edited) == end - start
    path.write_bytes(content[:start] + edited + content[end:])
    return find_sources(folder)[0]


def test_decimal_commas_are_read_and_counted(tmp_path):
    source = _edited(tmp_path, lambda text: text.replace(b".", b","))
    assert slices_of(source) == [2, 3, 4]
    assert counted(source) == {("reinterpreted", 1, "contours with decimal commas, read as decimal points")}


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: b"nan " + text[4:],
        lambda text: b"abc " + text[4:],
        lambda text: b"1_0 " + text[4:],
        lambda text: b"1e99" + text[4:],
        lambda text: text[:6].replace(b"\\", b"1") + text[6:],
        lambda text: text[: text.rindex(b"\\")] + b"                "[: len(text) - text.rindex(b"\\")],
        lambda text: text[: len(text) // 2].rsplit(b"\\", 3)[0].ljust(len(text)),
    ],
)
def test_a_damaged_contour_is_named_and_stops_only_where_it_is_used(tmp_path, edit):
    scan = _edited(tmp_path, edit).load()
    assert sorted(scan.structures) == ["y"]
    assert "contour 1 of 'x' is damaged" in scan.faults["x"]
    rules = {name: Rule(name, 1, (name,), 1) for name in "xy"}
    options = ConvertOptions(accept=frozenset({Accept.UNUSUAL_VALUES}))  # the image is noise
    with pytest.raises(BadInput, match=r"contour 1 of 'x' is damaged.*ignore_structures"):
        label_scan(scan, LabelMapping((rules["x"],), ("y",)), options, "here")
    labelled = label_scan(scan, LabelMapping((rules["y"],), ("x",)), options, "here")
    assert (labelled.label > 0).sum() == 2 * AREA


def test_a_structure_that_does_not_fit_is_refused_only_where_it_is_used(tmp_path):
    upright = box(4) + np.array([[0, 0, 0], [0, 0, 10], [0, 0, 10], [0, 0, 0]])
    scan = patient(tmp_path, {"x": boxes([2, 3]), "upright": [(None, upright)]}).load()
    assert sorted(scan.structures) == ["x"]
    assert "spans 2.0 slices" in scan.faults["upright"]


def _no_contours(data):
    del data.ROIContourSequence


def _planning_point(data):
    data.ROIContourSequence[0].ContourSequence = [closed(box(2)[:1], "POINT")]


@pytest.mark.parametrize("change", [_no_contours, _planning_point])
def test_a_file_of_planning_points_does_not_stop_the_patient(tmp_path, change):
    slices = write_ct(tmp_path / "p", ct())
    write_rtstruct(tmp_path / "p" / "rs", slices, {"x": boxes([2, 3, 4], referenced=True)})
    write_rtstruct(tmp_path / "p" / "points", slices, {"point": boxes([2])}, change=change)
    source = find_sources(tmp_path)[0]
    assert source.listing().problems == ()
    assert source.listing().structures == ("x",)
    assert slices_of(source) == [2, 3, 4]
    assert ("dropped", 1, "structures without a closed contour") in counted(source)


def test_contours_of_a_structure_that_is_not_defined_are_dropped_with_a_count(tmp_path):
    def undefined(data):
        data.StructureSetROISequence = data.StructureSetROISequence[:1]

    source = patient(tmp_path, {"x": boxes([2, 3]), "y": boxes([5, 6, 7])}, undefined)
    assert source.listing().structures == ("x",)
    assert counted(source) == {("dropped", 3, "contours of structures that the file does not define")}


def test_a_number_of_two_structures_is_refused_and_of_one_structure_twice_is_not(tmp_path):
    def same_number(data):
        data.StructureSetROISequence[1].ROINumber = 1

    scan = patient(tmp_path / "a", {"x": boxes([2, 3]), "y": boxes([5]), "z": boxes([5, 6])}, same_number).load()
    assert sorted(scan.structures) == ["z"]
    assert "have the ROINumber 1" in scan.faults["x"]
    assert "have the ROINumber 1" in scan.faults["y"]
    source = patient(tmp_path / "b", {"x": boxes([2, 3]), " x": boxes([5])}, same_number)
    assert slices_of(source) == [2, 3]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("  a  b ", "a b"),
        ("", "ROI 1"),
        ("   ", "ROI 1"),
        ("u\u0308ber", "\u00fcber"),
        ("Tumor \u00f6\u03b1\u80ba", "Tumor \u00f6\u03b1\u80ba"),
        ("a\\b", "a\\b"),
    ],
)
def test_names_have_one_spelling(tmp_path, written, read):
    def name(data):
        data.SpecificCharacterSet = "ISO_IR 192"
        data.StructureSetROISequence[0].ROIName = written

    source = patient(tmp_path, {"x": boxes([2, 3])}, name)
    assert source.listing().structures == (read,)
    assert list(source.load().structures) == [read]


def test_a_structure_without_a_name_has_that_of_its_observation(tmp_path):
    def observed(data):
        data.StructureSetROISequence[0].ROIName = ""
        item = Dataset()
        item.ObservationNumber, item.ReferencedROINumber, item.ROIObservationLabel = 1, 1, "GTV"
        data.RTROIObservationsSequence = [item]

    assert patient(tmp_path, {"x": boxes([2, 3])}, observed).listing().structures == ("GTV",)


def test_a_file_cut_off_at_any_place_loses_no_contour_in_silence(tmp_path):
    patient(tmp_path, {"x": boxes(range(2, 5)), "y": boxes([6, 7])})
    path = tmp_path / "p" / "rs"
    content = path.read_bytes()
    whole = pydicom.dcmread(io.BytesIO(content))
    start = content.index(b"\x06\x30\x39\x00SQ")
    assert whole.ROIContourSequence
    for end in np.random.default_rng(0).integers(start + 12, len(content) - 1, 25).tolist():
        path.write_bytes(content[:end])
        line = refused(find_sources(tmp_path)[0])
        assert "ends in the middle of an element" in line
    path.write_bytes(content + b"\0" * 64)
    assert slices_of(find_sources(tmp_path)[0]) == [2, 3, 4]


# several contours in a plane


def area_of(tmp_path: Path, contours, kind: str = "CLOSED_PLANAR") -> np.ndarray:
    source = patient(tmp_path, {"x": [(4, points) for points in contours]}, kind=kind)
    return sitk.GetArrayFromImage(source.load().structures["x"])[4]


def filled(*rectangles: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros(SIZE[1::-1], int)
    for x, y, width, height in rectangles:
        mask[y : y + height, x : x + width] += 1
    return mask


def test_nested_contours_are_holes_and_islands(tmp_path):
    rectangles = [(5, 5, 30, 30), (10, 10, 20, 20), (15, 15, 8, 8), (5, 36, 3, 3)]
    contours = [box(4, x, y, w, h) for x, y, w, h in rectangles]
    assert np.array_equal(area_of(tmp_path, contours[::-1]), filled(*rectangles) % 2)


def test_contours_that_overlap_are_one_area_unless_the_file_says_xor(tmp_path):
    rectangles = [(5, 5, 12, 12), (10, 10, 12, 12)]
    contours = [box(4, *r) for r in rectangles]
    both = filled(*rectangles)
    assert np.array_equal(area_of(tmp_path / "a", contours), both > 0)
    assert np.array_equal(area_of(tmp_path / "b", contours, "CLOSEDPLANAR_XOR"), both % 2)
    source = find_sources(tmp_path / "a")[0]
    assert counted(source) == {("merged", 1, "contours overlapping, merged to one area")}


def test_a_hole_across_the_edge_is_a_hole_and_two_drawings_of_one_thing_are_one(tmp_path):
    outer, hole, again = (5, 5, 20, 20), (10, 4, 6, 10), (6, 6, 20, 20)
    crossing = area_of(tmp_path / "a", [box(4, *outer), box(4, *hole)])
    assert np.array_equal(crossing, filled(outer, hole) % 2)
    assert np.array_equal(area_of(tmp_path / "b", [box(4, *outer), box(4, *again)]), filled(outer, again) > 0)
    thin = [box(4, *outer), box(4, 6, 6, 18, 18)]  # a wall of one pixel
    assert np.array_equal(area_of(tmp_path / "c", thin), filled(outer, (6, 6, 18, 18)) == 1)


def test_self_crossing_and_keyhole_outlines_follow_the_even_odd_rule(tmp_path):
    outer, inner = box(4, 5, 5, 20, 20), box(4, 10, 10, 6, 6)
    keyhole = np.concatenate([outer, outer[:1], inner[[0, 3, 2, 1, 0]], outer[:1]])
    expected = filled((5, 5, 20, 20), (10, 10, 6, 6)) == 1
    assert (area_of(tmp_path / "a", [keyhole]) != expected).sum() <= 2
    eight = box(4, 5, 5, 20, 20)[[0, 1, 3, 2]]
    assert int(area_of(tmp_path / "b", [eight]).sum()) == pytest.approx(200, abs=25)


@pytest.mark.filterwarnings("error")  # pydicom quotes damaged values, which may be data of the patient
def test_a_contour_of_an_unknown_type_is_refused_and_not_dropped(tmp_path):
    patient(tmp_path, {"x": boxes([2, 3, 4], referenced=True)})
    path = tmp_path / "p" / "rs"
    path.write_bytes(path.read_bytes().replace(b"CLOSED_PLANAR", b"CL\xadSED_PLANAR", 1))
    assert "contour 1 of 'x' is damaged: its ContourGeometricType is" in refused(find_sources(tmp_path)[0])
    assert slices_of(patient(tmp_path / "b", {"x": boxes([2, 3])}, kind="CLOSED PLANAR")) == [2, 3]


def test_a_slice_whose_modality_is_damaged_is_named_where_its_contours_are_missed(tmp_path):
    def change(z, data):
        if z == 0:
            data.Modality = "XT"

    slices = write_ct(tmp_path / "p", ct(), change=change)
    write_rtstruct(tmp_path / "p" / "rs", slices, {"x": boxes([0, 1, 2], referenced=True)})
    assert "is such a slice, but its Modality is XT: correct it" in refused(find_sources(tmp_path)[0])
