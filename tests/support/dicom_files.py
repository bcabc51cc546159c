"""Writes DICOM archives for the tests: CT series, RTSTRUCT and DICOM-SEG of made-up patients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from skimage.measure import find_contours

pytest.importorskip("pydicom")
hd = pytest.importorskip("highdicom")

from pydicom.dataset import Dataset, FileDataset, FileMetaDataset  # noqa: E402
from pydicom.sr.codedict import codes  # noqa: E402
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid  # noqa: E402
from pydicom.valuerep import DSfloat  # noqa: E402

SECRET = "SECRET^PATIENT"  # the patient's name and id in every file; must never come out again


def numbers(values) -> list[DSfloat]:
    return [DSfloat(float(v), auto_format=True) for v in np.ravel(values)]


def blank(sop_class: str, modality: str, series: str, patient: str, study: str = "1.2.3") -> FileDataset:
    """A file with what every DICOM file has."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = sop_class, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    data.PatientName, data.PatientID, data.Modality = SECRET, f"{SECRET}-{patient}", modality
    data.PatientBirthDate, data.PatientSex, data.StudyID, data.AccessionNumber = "19010203", "O", "", ""
    data.StudyDate, data.StudyTime, data.ReferringPhysicianName = "19770809", "101112", ""
    data.StudyInstanceUID, data.SeriesInstanceUID, data.SeriesNumber = study, series, 1
    data.Manufacturer = "tests"
    return data


def write_ct(
    folder: Path,
    image: sitk.Image,
    patient: str = "1",
    slopes: Sequence[float] = (1.0,),
    seed: int = 0,
    change: Callable[[int, FileDataset], bool | None] | None = None,
    series: str | None = None,
    frame: str | None = None,
) -> list[FileDataset]:
    """Writes one file per slice, under shuffled names and instance numbers.

    Args:
        folder: made where it is missing.
        image: HU; its direction may be oblique, or sheared as by a tilted gantry.
        patient: part of the PatientID.
        slopes: rescale slopes that the slices take turns with.
        seed: of the shuffle.
        change: changes slice z before it is written; False leaves it out.
        series, frame: their UIDs.

    Returns:
        The written slices in the image's order.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series, frame = series or generate_uid(), frame or generate_uid()
    names = np.random.default_rng(seed).permutation(image.GetSize()[2])
    direction = np.array(image.GetDirection()).reshape(3, 3)
    files = []
    for z, pixels in enumerate(sitk.GetArrayFromImage(image)):
        data = blank(CTImageStorage, "CT", series, patient)
        data.FrameOfReferenceUID, data.InstanceNumber = frame, int(names[z]) + 1
        data.ImageType, data.KVP, data.PositionReferenceIndicator = ["ORIGINAL", "PRIMARY", "AXIAL"], "120", ""
        data.Rows, data.Columns = pixels.shape
        data.PixelSpacing = numbers(image.GetSpacing()[1::-1])
        data.SliceThickness = numbers([image.GetSpacing()[2]])[0]
        data.ImageOrientationPatient = numbers(direction[:, :2].T)
        data.ImagePositionPatient = numbers(image.TransformIndexToPhysicalPoint((0, 0, z)))
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 0
        slope = slopes[z % len(slopes)]
        data.RescaleSlope, data.RescaleIntercept, data.RescaleType = numbers([slope])[0], "-1024", "HU"
        data.PixelData = np.rint((pixels + 1024) / slope).astype("<u2").tobytes()
        if change is not None and change(z, data) is False:
            continue
        data.save_as(folder / f"{names[z]:02d}x", enforce_file_format=True)
        files.append(data)
    return files


def outlines(mask: sitk.Image) -> list[tuple[int, np.ndarray]]:
    """Slice and points (n, 3) in mm of every contour of a mask, half a pixel around its pixels' centres."""
    found = []
    for z, one in enumerate(sitk.GetArrayFromImage(mask)):
        for line in find_contours(np.pad(one, 1).astype(float), 0.5):
            index = np.column_stack([line[:-1, ::-1] - 1, np.full(len(line) - 1, z)]).tolist()
            found.append((z, np.array([mask.TransformContinuousIndexToPhysicalPoint(i) for i in index])))
    return found


def write_rtstruct(
    path: Path,
    slices: Sequence[FileDataset],
    structures: Mapping[str, Sequence[tuple[int | None, np.ndarray]]],
    kind: str = "CLOSED_PLANAR",
    change: Callable[[Dataset], None] | None = None,
) -> None:
    """Writes contours.

    Args:
        path: the file.
        slices: as of ``write_ct``.
        structures: name → contours: the slice that one was drawn on (None: not said) and its points in mm.
        kind: ContourGeometricType.
        change: changes the file before it is written.
    """
    first = slices[0]
    data = blank(RTStructureSetStorage, "RTSTRUCT", generate_uid(), first.PatientID.removeprefix(f"{SECRET}-"))
    data.StructureSetLabel = "drawn"
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID, study.RTReferencedSeriesSequence = first.SeriesInstanceUID, [series]
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = first.FrameOfReferenceUID, [study]
    data.ReferencedFrameOfReferenceSequence = [frame]
    data.StructureSetROISequence, data.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(structures.items(), start=1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, first.FrameOfReferenceUID
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for z, points in contours:
            contour = Dataset()
            contour.ContourGeometricType, contour.NumberOfContourPoints = kind, len(points)
            contour.ContourData = numbers(points)
            if z is not None:
                image = Dataset()
                image.ReferencedSOPClassUID, image.ReferencedSOPInstanceUID = CTImageStorage, slices[z].SOPInstanceUID
                contour.ContourImageSequence = [image]
            drawn.ContourSequence.append(contour)
        data.StructureSetROISequence.append(roi)
        data.ROIContourSequence.append(drawn)
    if change is not None:
        change(data)
    data.save_as(path, enforce_file_format=True)


def write_seg(
    path: Path,
    slices: Sequence[FileDataset],
    masks: Mapping[str, np.ndarray],
    kind: str = "BINARY",
    seed: int | None = None,
    **options,
) -> None:
    """Writes masks (z, y, x) as segments; empty frames are left out.

    Args:
        path: the file.
        slices: the CT slices that the masks lie on, in the masks' order.
        masks: SegmentLabel → mask of 0 and 1, or shares of 0..1 for kind ``FRACTIONAL``.
        kind: segmentation type.
        seed: shuffles the frames; needs rows x columns to be a multiple of 8.
        **options: of ``highdicom.seg.Segmentation``.
    """
    described = [
        hd.seg.SegmentDescription(
            number, name, codes.SCT.Tissue, codes.SCT.Lung, hd.seg.SegmentAlgorithmTypeValues.MANUAL
        )
        for number, name in enumerate(masks, start=1)
    ]
    pixels = np.stack(list(masks.values()), axis=-1).astype(np.uint8 if kind == "BINARY" else np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = hd.seg.Segmentation(
            list(slices),
            pixels,
            kind,
            described,
            generate_uid(),
            2,
            generate_uid(),
            1,
            "tests",
            "tests",
            "1",
            "1",
            **options,
        )
        if seed is not None:
            frames = np.frombuffer(data.PixelData, np.uint8).reshape(data.NumberOfFrames, -1)
            order = np.random.default_rng(seed).permutation(len(frames))
            data.PixelData = frames[order].tobytes()
            groups = list(data.PerFrameFunctionalGroupsSequence)
            data.PerFrameFunctionalGroupsSequence = [groups[i] for i in order]
        data.save_as(path)
