"""Which of a patient's DICOM files are the CT series to convert, and its slices as a volume in HU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nnunet_difflung.dataset_conversion.dicom.headers import Header
from nnunet_difflung.errors import BadInput

if TYPE_CHECKING:
    import SimpleITK as sitk

DRAWINGS = ("RTSTRUCT", "SEG")

AIR, HIGHEST = -1024.0, 3071.0  # HU of 12 bits with the usual intercept


def ct_series(headers: Sequence[Header]) -> tuple[dict[str, list[Header]], list[str]]:
    """CT slices by series, largest first, and notes on the files that are none."""
    series: dict[str, list[Header]] = {}
    others: Counter[str] = Counter()
    seen: set[str] = set()
    for header in headers:
        if header.modality in ("", *DRAWINGS):
            continue
        if header.modality != "CT":
            others[f"of modality {header.modality}"] += 1
        elif header.localizer:
            others["of a localizer (scout)"] += 1
        elif header.frames > 1:
            others["of multi-frame CT (export it as one file per slice)"] += 1
        elif header.position is None or len(header.orientation) != 6 or not all(header.spacing + header.size):
            others["of CT without a place in the patient or a pixel spacing"] += 1
        elif header.uid and header.uid in seen:
            others["that are copies of another file"] += 1
        else:
            seen.add(header.uid)
            series.setdefault(header.series, []).append(header)
    notes = [f"left out {n} file{'s' * (n > 1)} {kind}" for kind, n in sorted(others.items())]
    return dict(sorted(series.items(), key=lambda item: -len(item[1]))), notes


def choose_series(
    series: dict[str, list[Header]],
    left_out: Sequence[str],
    wanted: str | None,
    referenced: Collection[str],
    where: str,
) -> list[Header]:
    """The one series to convert.

    Args:
        series: as of ``ct_series``.
        left_out: notes of ``ct_series``, for the message where there is no series.
        wanted: what ``--series`` says: a series' folder, relative to the archive or its last part, or its number
            of slices.
        referenced: series that contours or segmentations belong to.
        where: archive and patient, for messages.

    Raises:
        BadInput: none, or more than one that could be meant.
    """
    if not series:
        found = "; ".join(left_out) or "no image"
        raise BadInput(
            f"{where}: no CT series ({found}); expected axial CT slices with positions: add them or remove the patient"
        )
    choice = list(series.values())
    if wanted is not None:
        wanted = wanted.rstrip("/")
        choice = [s for s in choice if wanted in (str(len(s)), _folder(s), _folder(s).rsplit("/", 1)[-1])]
    elif len(choice) > 1:
        choice = [s for uid, s in series.items() if uid in referenced] or choice
    if len(choice) == 1:
        return choice[0]
    listed = ", ".join(
        f"{_folder(s)} ({len(s)} slice{'s' * (len(s) > 1)}, first file {s[0].path.rsplit('/', 1)[-1]})"
        for s in (choice or series.values())
    )
    asked = "" if wanted is None else f" and {len(choice) or 'none'} of them match{'es' * (not choice)} {wanted!r}"
    raise BadInput(
        f"{where}: {len(series)} CT series{asked}: {listed}; expected one: name it with --series FOLDER or "
        f"--series NUMBER_OF_SLICES, or move the others away"
    )


def _folder(slices: Sequence[Header]) -> str:
    return Counter(h.folder for h in slices).most_common(1)[0][0]


@dataclass(frozen=True)
class Stack:
    """A series in order, and its grid; the grid is sheared where a tilted gantry made it so.

    Attributes:
        slices: ascending along the slices' normal.
        origin: mm (LPS) of the first voxel's centre.
        step: mm (LPS) from a slice to the next.
        notes: what the report should say.
    """

    slices: tuple[Header, ...]
    origin: tuple[float, ...]
    step: tuple[float, ...]
    notes: tuple[str, ...] = ()

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm along x, y, z of the index."""
        return (*self.slices[0].spacing, float(np.linalg.norm(self.step)))

    def place(self, array: np.ndarray) -> sitk.Image:
        """An image of an array (z, y, x) on this grid."""
        import SimpleITK as sitk

        image = sitk.GetImageFromArray(array)
        axes = np.column_stack([*_axes(self.slices[0])[:2], np.array(self.step) / self.spacing[2]])
        image.SetOrigin(self.origin)
        image.SetSpacing(self.spacing)
        image.SetDirection(axes.ravel().tolist())
        return image


def _axes(header: Header) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors along a row, along a column and normal to the slice."""
    rows = np.array(header.orientation[:3]) / np.linalg.norm(header.orientation[:3])
    columns = np.array(header.orientation[3:])
    columns = columns - rows * (rows @ columns)
    columns /= np.linalg.norm(columns)
    return rows, columns, np.cross(rows, columns)


def stack(slices: Sequence[Header], root: Path) -> Stack:
    """Orders slices along their normal and checks that they make one regular volume.

    Raises:
        BadInput: a damaged file, mixed size, spacing or orientation, duplicate, missing or uneven slices.
    """
    first, where = slices[0], root / slices[0].folder
    for header in slices:
        if header.problem:
            raise BadInput(header.problem)
        for what, tolerance in (("size", 0), ("spacing", 1e-3), ("orientation", 1e-3)):
            mine, other = getattr(header, what), getattr(first, what)
            if not np.allclose(mine, other, rtol=0, atol=tolerance):
                raise BadInput(
                    f"{root / header.path}: {what} {_short(mine)} differs from {_short(other)} of "
                    f"{Path(first.path).name} in the same series; move the files that do not belong away"
                )
    lengths = np.linalg.norm(np.reshape(first.orientation, (2, 3)), axis=1)
    if not np.allclose(lengths, 1, atol=1e-2) or abs(np.dot(first.orientation[:3], first.orientation[3:])) > 1e-2:
        raise BadInput(
            f"{root / first.path}: rows and columns are not perpendicular unit vectors "
            f"({_short(first.orientation)}); export the series again"
        )
    rows, columns, normal = _axes(first)
    places = np.array([h.position for h in slices])
    order = np.argsort(places @ normal, kind="stable")
    ordered, places = [slices[i] for i in order], places[order]
    if len(ordered) == 1:
        step = normal * (first.thickness or 1.0)
        notes = () if first.thickness else ("a single slice without a thickness: 1 mm assumed",)
        return Stack(tuple(ordered), tuple(places[0].tolist()), tuple(step.tolist()), notes)
    _check_gaps(ordered, places @ normal, where)
    step = (places[-1] - places[0]) / (len(places) - 1)
    off = (places - places[0] - np.arange(len(places))[:, None] * step) @ np.column_stack([rows, columns])
    worst = int(np.abs(off).max(axis=1).argmax())
    if np.abs(off[worst]).max() > 0.5 * min(first.spacing):
        raise BadInput(
            f"{root / ordered[worst].path}: lies {np.abs(off[worst]).max():.2f} mm beside the line of the "
            f"other slices; the series is shifted irregularly: export it again"
        )
    drift = np.hypot(rows @ step, columns @ step) * (len(places) - 1)
    notes = ()
    if drift < 0.25 * min(first.spacing):
        step = normal * (normal @ step)
    else:
        angle = np.degrees(np.arccos(normal @ step / np.linalg.norm(step)))
        notes = (f"tilted gantry ({angle:.1f} degrees): slices resampled in plane onto an orthogonal grid",)
    return Stack(tuple(ordered), tuple(places[0].tolist()), tuple(step.tolist()), notes)


def _short(values: Sequence[float]) -> str:
    return "x".join(f"{v:g}" for v in values) if len(values) < 4 else ", ".join(f"{v:.4g}" for v in values)


def _check_gaps(slices: Sequence[Header], along: np.ndarray, where: Path) -> None:
    """Raises BadInput for slices at one position, missing ones, and uneven steps.

    Args:
        slices: in order.
        along: mm of each along the normal, ascending.
    """
    steps = np.diff(along)
    names = [Path(h.path).name for h in slices]
    twins = np.flatnonzero(steps < 0.01)
    if len(twins):
        a = twins[0]
        raise BadInput(
            f"{where}: {len(twins)} of {len(slices)} slices lie where another one lies, for example "
            f"{names[a]} and {names[a + 1]}; keep one reconstruction or time point, move the others away"
        )
    usual = float(np.median(steps))
    gaps = np.flatnonzero(steps > 1.5 * usual)
    if len(gaps):
        a = gaps[0]
        raise BadInput(
            f"{where}: {int(np.round(steps[gaps] / usual - 1).sum())} of "
            f"{int(np.round(np.ptp(along) / usual)) + 1} slices are missing, the first between {names[a]} "
            f"and {names[a + 1]} ({steps[a]:.2f} mm apart, {usual:.2f} mm elsewhere); add them"
        )
    regular = along[0] + np.arange(len(along)) * np.ptp(along) / (len(along) - 1)
    if np.abs(along - regular).max() > max(0.1, 0.1 * usual):
        raise BadInput(
            f"{where}: slices lie {steps.min():.2f} to {steps.max():.2f} mm apart; expected even steps: "
            f"keep the part of the series with one step"
        )


def read_slice(header: Header, root: Path) -> np.ndarray:
    """One slice (y, x) float32 in HU by its own rescale slope and intercept; padding becomes air (−1024 HU).

    Raises:
        BadInput: the pixels cannot be read.
    """
    import SimpleITK as sitk

    if header.problem:
        raise BadInput(header.problem)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetOutputPixelType(sitk.sitkFloat32)
    reader.SetFileName(str(root / header.path))
    try:
        image = reader.Execute()
    except RuntimeError as error:  # its text may quote what is in the file
        raise BadInput(
            f"{root / header.path}: its pixels cannot be decoded; the file is truncated or of an unknown "
            f"compression: copy it again or export it uncompressed"
        ) from error
    pixels = sitk.GetArrayFromImage(image)
    if pixels.size != header.size[0] * header.size[1]:
        raise BadInput(
            f"{root / header.path}: holds pixels of shape {pixels.shape}, expected {_short(header.size)} "
            f"grey values; export the series again"
        )
    pixels = pixels.reshape(header.size[::-1])
    if header.padding is not None:
        value = header.padding * (1 if header.slope is None else header.slope) + (header.intercept or 0)
        if not AIR <= value <= HIGHEST:
            pixels[pixels == np.float32(value)] = AIR
    return pixels


def read_volume(one: Stack, root: Path) -> sitk.Image:
    """All slices in HU: int16 where every value is a whole number that fits, else float32."""
    pixels = np.stack([read_slice(h, root) for h in one.slices])
    whole = np.abs(pixels).max() < 2**15 and all(np.array_equal(p, np.rint(p)) for p in pixels)
    return one.place(pixels.astype(np.int16) if whole else pixels)
