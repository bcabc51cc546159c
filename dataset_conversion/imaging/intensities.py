"""Prepares the values of an image for a dataset: refuses what is not HU, names display windows, replaces padding.

What values mean is judged in one place for all commands, ``meaning.intensities``. Scanners store 12 bits, 0..4095, with
a rescale intercept of −1024, so −1024 is the lowest HU that most of them can write. Values below are either *padding*,
a constant that fills the square image outside the round field of view (DICOM's PixelPaddingValue: often −2000, −3024
once an intercept of −1024 is added, −32768 in 16 bits), or noise and streaks of a reconstruction with a wider range.
Source: DICOM PS3.3, C.7.5.1.1.2 (padding) and C.11.1 (rescaling).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnunet_difflung.dataset_conversion.accept import Accept, remedy
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.intensities import (
    PADDING,
    WINDOW_8BIT,
    WINDOWED,
    Judgement,
    Meaning,
    judge,
    odd_slices,
    whole_numbers,
    window_name,
)

if TYPE_CHECKING:
    import SimpleITK as sitk

AIR = -1000  # HU; value of padding after conversion; −1024 would leave an edge of 24 HU in the air of the room
LOWEST = -1024  # HU; lowest value in 12 bits with the usual intercept
TISSUE = 40  # HU
FARTHEST = 1e5  # HU; metal does not reach it, not even where a scanner extends its scale


def prepare_intensities(
    image: sitk.Image,
    modality: str,
    windowed: bool | None,
    window: tuple[float, float] | None,
    name: str = "image",
    rescale: tuple[float, float] | None = None,
    accept: Collection[Accept] = (),
) -> tuple[sitk.Image, str, tuple[Note, ...]]:
    """Finds out what the values mean, sets padding to air, clips, and chooses channel name and dtype.

    Values are never shifted or scaled on a guess: those that are not HU are refused, with the rescaling that repairs
    them.

    Args:
        image: 2D or 3D, one component; HU after rescaling for CT.
        modality: as in DICOM; ``""`` if the archive does not give it, in which case CT is assumed.
        windowed: whether the values are a display window (True) or HU (False); None to judge by the values.
        window: lowest and highest value to keep, HU for CT; None keeps all values.
        name: of the file or patient, for messages.
        rescale: slope and intercept that the user gave, which is done here; None for none.
        accept: what the user accepts.

    Returns:
        The image on the same grid, the channel name, and notes. The channel is ``CT`` for HU only, since nnU-Net
        normalises ``CT`` over the whole dataset; ``lung_window_8bit`` for whole numbers in 0..255, ``windowed`` for
        other scaled values, and the modality for images that are not CT. The dtype is int16 for whole numbers in
        ``CT``, uint8 for ``lung_window_8bit``, else float32.

    Raises:
        BadInput: values are NaN or infinite, all equal, or not HU; some slices are not; or the window is empty, or in
            HU although the values are not.
    """
    import SimpleITK as sitk

    from nnunet_difflung.dataset_conversion.imaging.geometry import image_like

    values = sitk.GetArrayFromImage(image)
    if np.issubdtype(values.dtype, np.floating) and not (finite := np.isfinite(values)).all():
        raise BadInput(
            f"{name}: {int((~finite).sum())} values are NaN or infinite; expected finite numbers: "
            f"set them to {AIR} (air) or export the image again"
        )
    if values.min() == values.max():
        raise BadInput(f"{name}: every value is {values.min():g}; expected an image with contrast: export it again")
    notes: list[Note] = []
    channel = modality
    if rescale is not None:
        values = _rescaled(values, rescale, notes)
    if modality in ("", "CT"):
        channel = _channel(values, windowed, notes, name, rescale, accept)
        values, padded = _padding_to_air(values, notes)
        if padded is not None and padded.all():
            raise BadInput(f"{name}: all values are padding; expected an image with contrast: export it again")
        if channel == "CT":
            _check_range(values, notes, name, accept)
            _note_fill(values, notes)
    values = _clipped(values, channel, window, notes, name)
    return image_like(_compact(values, channel), image), channel, tuple(notes)


def _check_range(values: np.ndarray, notes: list[Note], name: str, accept: Collection[Accept]) -> None:
    """Checks that no single value is far from HU, as damage leaves them; such a value spoils nnU-Net's normalisation.

    Raises:
        BadInput: there are such values, and the user does not accept them.
    """
    low, high = float(values.min()), float(values.max())
    if max(-low, high) <= FARTHEST:
        return
    number = int((np.abs(values) > FARTHEST).sum())
    text = f"{number} of {values.size} values are beyond {FARTHEST:g} HU, from {low:.4g} to {high:.4g}"
    if Accept.UNUSUAL_VALUES not in accept:
        raise BadInput(
            f"{name}: {text}; expected HU: set them to {AIR} (air) or export the image again, "
            f"{remedy(Accept.UNUSUAL_VALUES)}"
        )
    notes.append(Note(text, Kind.GUESSED, number, f"values beyond {FARTHEST:g} HU, taken as HU"))


def _rescaled(values: np.ndarray, rescale: tuple[float, float], notes: list[Note]) -> np.ndarray:
    slope, intercept = rescale
    what = "patients whose values were rescaled as --rescale says"
    notes.append(Note(f"values were rescaled: value · {slope:g} + {intercept:g}", Kind.REINTERPRETED, what=what))
    return values.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _channel(
    values: np.ndarray,
    windowed: bool | None,
    notes: list[Note],
    name: str,
    rescale: tuple[float, float] | None,
    accept: Collection[Accept],
) -> str:
    """Channel name of CT values.

    Raises:
        BadInput: the values, or those of some slices, are not HU.
    """
    judgement = judge(values)
    if windowed or judgement.meaning is Meaning.PICTURE:
        channel = window_name(values) or WINDOWED
        described = f"values from {judgement.low:g} to {judgement.high:g}"
        text = f"{described} are a display window and not HU: the channel is {channel}"
        if windowed is False:
            text = f"the archive declares {described} as HU, but they are a display window: the channel is {channel}"
        notes.append(Note(text, Kind.REINTERPRETED, what=f"patients with a display window instead of HU ({channel})"))
        return channel
    after = "" if rescale is None else f" after --rescale {rescale[0]:g},{rescale[1]:g}"
    odd = [] if judgement.not_hu else odd_slices(values)
    if judgement.not_hu or odd:
        if Accept.UNUSUAL_VALUES not in accept:
            limits = float(values.min()), float(values.max())
            raise BadInput(_refusal(judgement, odd, f"{name}{after}", rescale or (1.0, 0.0), limits))
        text = f"{_found(judgement, odd)}: taken as HU, as --accept {Accept.UNUSUAL_VALUES} says"
        notes.append(Note(text, Kind.GUESSED, what="patients with unusual values, which were taken as HU"))
    elif judgement.meaning is Meaning.UNCERTAIN:
        notes.append(Note(f"{judgement.found()}: too little is shown to tell whether these are HU"))
    if judgement.low > -200:
        text = f"no value is below {judgement.low:g} HU: the image is cropped to soft tissue or clipped, and shows no "
        notes.append(Note(text + "lung texture"))
    return "CT"


def _found(judgement: Judgement, odd: Sequence[tuple[int, Judgement]]) -> str:
    if odd:
        z, of_slice = odd[0]
        return (
            f"{len(odd)} slices do not fit the others, the first (z = {z}, from 0) with {of_slice.found()}, "
            f"{of_slice.because()}"
        )
    return f"{judgement.found()}, {judgement.because()}"


def _refusal(
    judgement: Judgement,
    odd: Sequence[tuple[int, Judgement]],
    where: str,
    done: tuple[float, float],
    limits: tuple[float, float],
) -> str:
    """One line on values that are not HU.

    Args:
        judgement: of the whole image.
        odd: slices that differ, if the image is HU.
        where: file or patient.
        done: slope and intercept that the user has given already.
        limits: lowest and highest value, padding included.
    """
    text = f"{where}: {_found(judgement, odd)}; expected HU, where air is {AIR} and soft tissue around {TISSUE}: "
    taken = remedy(Accept.UNUSUAL_VALUES)
    if odd:
        return f"{text}export the series again, or leave these slices out, {taken}"
    slope, intercept = judgement.slope * done[0], judgement.slope * done[1] + judgement.intercept
    option = f"--rescale{'=' if slope < 0 else ' '}{slope:g},{intercept:g}"
    if judgement.meaning is Meaning.WRAPPED:
        way = "export the images again with signed values"
    elif judgement.meaning is Meaning.UNKNOWN:
        lowest = min(0.0, limits[0])
        scale = 255 / (limits[1] - lowest)
        picture = f"--rescale {scale * done[0]:.6g},{scale * (done[1] - lowest):.6g}"
        way = (
            f"give --rescale SLOPE,INTERCEPT if you know how to get HU, or {picture} if this is a display window, "
            f"whose channel will be {WINDOWED} and not CT"
        )
    elif judgement.meaning is Meaning.INVERTED:
        known = "" if judgement.exact else " or nearly so, since this constant is fitted to the histogram"
        way = f"pixels of MONOCHROME1 were inverted when the image was written; give {option}{known}"
    elif judgement.meaning is Meaning.SCALED:
        way = f"give {option}"
    elif judgement.exact:
        way = f"give {option} if {judgement.intercept:g} is the intercept"
        way += f" (--rescale {slope:g},{intercept + 24:g} if it is -1000)" if judgement.intercept == -1024 else ""
    else:
        way = f"give --rescale 1,INTERCEPT with the intercept of the scanner, which is about {intercept:g}"
    return f"{text}{way}, {taken}"


def _padding_to_air(values: np.ndarray, notes: list[Note]) -> tuple[np.ndarray, np.ndarray | None]:
    """Values with padding set to ``AIR``, and where the padding was (None if there is none).

    Padding is one of the values in ``PADDING``, or the value below −1024 that most corners of the slices have. Other
    values below −1024 are noise or streaks of a wide reconstruction and are kept.
    """
    if values.min() >= LOWEST:
        return values, None
    low = np.unique(np.round(values[values < LOWEST]))
    corners = np.round(values[..., [0, 0, -1, -1], [0, -1, 0, -1]]).ravel()
    corner_values, counts = np.unique(corners, return_counts=True)
    constants: set[float] = {float(value) for value in PADDING} & set(low.tolist())
    if counts.max() > len(corners) / 2 and corner_values[counts.argmax()] < LOWEST:
        constants.add(float(corner_values[counts.argmax()]))
    if not constants:
        return values, None
    padded = np.isin(np.round(values), list(constants))
    values = np.where(padded, values.dtype.type(AIR), values)
    listed = ", ".join(f"{value:g}" for value in sorted(constants))
    text = f"padding ({listed}) was set to air ({AIR} HU): {int(padded.sum())} voxels, {100 * padded.mean():.1f} %"
    notes.append(Note(text, Kind.REINTERPRETED, what=f"patients whose padding was set to air ({AIR} HU)"))
    return values, padded


def _note_fill(values: np.ndarray, notes: list[Note]) -> None:
    """Notes a constant in the corners that is not air: the fill value of an earlier rotation or resampling."""
    corners = values[..., [0, 0, -1, -1], [0, -1, 0, -1]]
    value = corners.flat[0]
    if value > -900 and (corners == value).all() and (share := float((values == value).mean())) > 0.02:
        text = (
            f"{100 * share:.0f} % of the voxels, all corners among them, are exactly {value:g} HU: probably the fill "
            f"value of an earlier resampling; they are not changed"
        )
        notes.append(Note(text))


def _clipped(
    values: np.ndarray, channel: str, window: tuple[float, float] | None, notes: list[Note], name: str
) -> np.ndarray:
    """Values clipped to a window in HU.

    Raises:
        BadInput: the window is empty, or the values are not HU.
    """
    if window is None:
        return values
    low, high = window
    if not low < high:
        raise BadInput(f"--window {low:g},{high:g}: expected the lower value first")
    if channel in (WINDOW_8BIT, WINDOWED):
        raise BadInput(
            f"{name}: values from {values.min():g} to {values.max():g} are a display window and not HU, but "
            f"--window {low:g},{high:g} is in HU; remove --window"
        )
    outside = float(((values < low) | (values > high)).mean())
    text = f"clipped to {low:g}..{high:g}, which changed {100 * outside:.1f} % of the voxels"
    notes.append(Note(text, Kind.REINTERPRETED, what="patients whose values were clipped as --window says"))
    return np.clip(values.astype(np.float32), low, high)


def _compact(values: np.ndarray, channel: str) -> np.ndarray:
    """Values in their final dtype: int16 for whole numbers in CT, uint8 for an 8-bit window, else float32."""
    if channel == WINDOW_8BIT:
        return np.round(values).astype(np.uint8)
    limits = np.iinfo(np.int16)
    if channel == "CT" and values.min() >= limits.min and values.max() <= limits.max and whole_numbers(values):
        return np.round(values).astype(np.int16)
    return values.astype(np.float32)
