"""Small files in the folders and under the names in which public data sets are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from tests.support.archives import SPACING, chest, like
from tests.support.tiny import LABELS


def write(path: Path, array: np.ndarray, **place) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(like(array, **place), str(path), True)


def medseg_slices(folder: Path, slices: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """``tr_im``, ``tr_mask`` (1 ground glass, 2 consolidation), ``tr_lungmasks_updated`` (1 and 2)."""
    image, label = chest(1, slices)
    mask = np.select([label == LABELS["ILD"], label == LABELS["emphysema"]], [1, 2], 0).astype(np.uint8)
    lungs = (label > 0) * np.where(np.arange(64) < 32, 1, 2)
    for name, array in (
        ("tr_im", image.astype(np.float32) + 0.3),
        ("tr_mask", mask),
        ("tr_lungmasks_updated", lungs.astype(np.uint8)),
        ("val_im", image[:2].astype(np.float32)),
    ):
        write(folder / f"{name}.nii.gz", array)
    return image, mask


def covid_20_cases(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Both parts: HU, and 8-bit windows; 1 left lung, 2 right lung, 3 infection."""
    made = {}
    names = (
        "coronacases_001",
        "coronacases_002",
        "radiopaedia_10_85902_1",
        "radiopaedia_29_86490_1",
        "radiopaedia_29_86491_1",
    )
    for number, name in enumerate(names):
        image, label = chest(number)
        if name.startswith("radiopaedia"):
            image = np.rint(255 * np.clip((image + 1350) / 1500.0, 0, 1)).astype(np.int16)
        mask = np.where(label > 1, 3, (label > 0) * np.where(np.arange(64) < 32, 1, 2)).astype(np.uint8)
        made[name] = image, mask
        write(folder / "COVID-19-CT-Seg_20cases" / f"{name}.nii.gz", image)
        write(folder / "Lung_and_Infection_Mask" / f"{name}.nii.gz", mask)
    return made


def mosmed(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Studies with and without masks."""
    made = {}
    for number, study in enumerate(("CT-0/study_0001", "CT-1/study_0255", "CT-1/study_0256")):
        image, label = chest(number)
        write(folder / "COVID19_1110" / "studies" / f"{study}.nii.gz", image)
        if study.startswith("CT-1"):
            mask = (label > 1).astype(np.uint8)
            made[study[5:]] = image, mask
            write(folder / "COVID19_1110" / "masks" / f"{study[5:]}_mask.nii.gz", mask)
    return made


def roi_text(rois: list[tuple[str, int, np.ndarray]], spacing: float) -> str:
    """Contours (class, slice number, points in mm) as the HUG database writes them, the slices of a class together."""
    lines = [
        "Patient: x",
        "Study: 1.2.3",
        "Series: 1.2.4",
        f"SpacingX: {spacing:.6f}",
        f"SpacingY: {spacing:.6f}",
        "SpacingZ: 5.000000",
        "",
    ]
    last = ""
    for name, number, points in rois:
        lines += [f"label: {name}"] * (name != last)
        lines += [f"slice_number: {number}", f"nb_points_on_contour: {len(points)}"]
        lines += [f"{x:.4f} {y:.4f}" for x, y in points]
        last = name
    return "\n".join(lines) + "\n"


def healthy_place(label: np.ndarray) -> tuple[int, int]:
    """Upper left corner (y, x) of the first four by four pixels of slice 2 that are normal lung."""
    normal = label[2] == 1
    return next((y, x) for y in range(60) for x in range(60) if normal[y : y + 4, x : x + 4].all())


def hug(folder: Path, lungs: bool = True) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Two patients (one of the pilot) with four slices each, contours on the second and third; ``healthy`` on the third
    is a square of four pixels at the first place that is normal lung."""
    from pydicom.uid import CTImageStorage, generate_uid
    from skimage.measure import find_contours

    from tests.support.dicom_files import blank, write_ct

    made = {}
    for number, place in enumerate(("53/CT-INSPIRIUM-7605", "HRCT_pilot/200")):
        image, label = made[place] = chest(number)
        source, exam = folder / "ILD_DB_txtROIs" / place, f"{7605 + number}"

        def renumbered(z: int, data, source=source, exam=exam) -> bool:
            data.save_as(source / f"CT-{exam}-{z + 1:04d}.dcm", enforce_file_format=True)
            return False

        source.mkdir(parents=True)
        write_ct(source, like(image.astype(np.float32)), str(number), change=renumbered)
        rois = [
            (name, z + 1, (line[:-1, ::-1] + 0.5) * SPACING[0])
            for name, value in (("emphysema", 2), ("fibrosis", 3))
            for z in (1, 2)
            for line in find_contours((label[z] == value).astype(float), 0.5)
        ]
        rois.append(("cysts", 2, np.array([[10, 10], [10, 14], [14, 14], [14, 10]]) * SPACING[0]))
        y, x = healthy_place(label)
        rois.append(("healthy", 3, np.array([[x, y], [x, y + 4], [x + 4, y + 4], [x + 4, y]]) * SPACING[0]))
        (source / f"CT-INSPIRIUM-{exam}.txt").write_text(roi_text(rois, SPACING[0]))
        for z in range(4 if lungs else 0):
            data = blank(CTImageStorage, "CT", generate_uid(), str(number))
            data.Rows, data.Columns, data.SamplesPerPixel = 64, 64, 1
            data.PhotometricInterpretation, data.BitsAllocated, data.BitsStored = "MONOCHROME2", 16, 16
            data.HighBit, data.PixelRepresentation = 15, 0
            data.PixelData = (label[z] > 0).astype("<u2").tobytes()
            target = folder / "ILD_DB_lungMasks" / place / "lung_mask" / f"lung_mask_{exam}_{z + 1}.dcm"
            target.parent.mkdir(parents=True, exist_ok=True)
            data.save_as(target, enforce_file_format=True)
    return made


def plethora(folder: Path, mirrored: bool = False) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Cavity and effusion of three patients (the third without effusion), CT as DICOM in TCIA's folders."""
    from tests.support.dicom_files import outlines, write_ct, write_rtstruct

    made = {}
    for number in (1, 2, 3):
        image, label = chest(number, 6)
        image[:2][label[:2] > 0], label[:2] = 40, 0  # the abdomen
        name = f"LUNG1-{number:03d}"
        effusion = ((label > 1) & (number < 3)).astype(np.uint8)
        cavity = (label > 0).astype(np.uint8)
        series = folder / "manifest-1586193031612" / "NSCLC-Radiomics" / name / "01-01-2014-StudyID-NA-1"
        slices = write_ct(series / "0.000000-NA-82046", like(image.astype(np.float32)), name)
        (series / "0.000000-NA-9").mkdir()
        write_rtstruct(series / "0.000000-NA-9" / "1-1.dcm", slices, {"GTV-1": outlines(like(cavity))})
        made[name] = image, (cavity + effusion).astype(np.uint8)
        place = {"origin": (0.0, 0.0, 500.0)} if mirrored else {}
        for kind, array in (("Thoracic_Cavities", cavity), ("Effusions", effusion)):
            suffix = "thor_cav_primary_reviewer" if kind[0] == "T" else "effusion_first_reviewer"
            if array.any():
                write(folder / kind / name / f"{name}_{suffix}.nii.gz", array[::-1] if mirrored else array, **place)
    return made
