"""Finds out whether the values of an image are HU, stored values without intercept, or a display window; and padding.

Physics. A CT number in Hounsfield units is 1000 · (µ − µ_water) / µ_water: water is 0, vacuum −1000 and so, to within
two units, is air. Scanners store 12 bits, 0..4095, with a rescale intercept of −1024, so −1024 is the lowest HU that
most of them can write. Values below are either *padding*, a constant that fills the square image outside the round
field of view (DICOM's PixelPaddingValue: often −2000, −3024 once an intercept of −1024 is added, −32768 in 16 bits),
or noise and streaks of a reconstruction with a wider range. Source: DICOM PS3.3, C.7.5.1.1.2 (padding) and C.11.1
(rescaling); Hsieh, Computed Tomography (CT number).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.errors import BadInput

if TYPE_CHECKING:
    import SimpleITK as sitk

AIR = -1000  # HU; value of padding after conversion; −1024 would leave an edge of 24 HU in the air of the room
LOWEST = -1024  # HU; lowest value in 12 bits with the usual intercept
PADDING = (-2000, -2048, -3000, -3024, -3048, -3071, -3072, -4000, -10000, -32768)
WINDOW_8BIT, WINDOWED = "lung_window_8bit", "windowed"
ROUNDING = 0.01  # largest deviation from whole numbers that is taken as rounding in slope and intercept


def prepare_intensities(
    image: sitk.Image, modality: str, windowed: bool | None, window: tuple[float, float] | None, name: str = "image"
) -> tuple[sitk.Image, str, tuple[Note, ...]]:
    """Finds out what the values mean, sets padding to air, clips, and chooses channel name and dtype.

    Values are never shifted or scaled on a guess: those that look like stored values without intercept are refused.

    Args:
        image: 2D or 3D, one component; HU after rescaling for CT.
        modality: as in DICOM; ``""`` if the archive does not give it, in which case CT is assumed.
        windowed: whether the values are a display window (True) or HU (False); None to judge by the values.
        window: lowest and highest value to keep, HU for CT; None keeps all values.
        name: of the file or patient, for messages.

    Returns:
        The image on the same grid, the channel name, and notes. The channel is ``CT`` for HU only, since nnU-Net
        normalises ``CT`` over the whole dataset; ``lung_window_8bit`` for whole numbers in 0..255, ``windowed`` for
        other scaled values, and the modality for images that are not CT. The dtype is int16 for whole numbers in
        ``CT``, uint8 for ``lung_window_8bit``, else float32.

    Raises:
        BadInput: values are NaN or infinite, all equal, stored values without intercept, or an intercept was subtracted
            twice; or the window is empty, or in HU although the values are not.
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
    if modality in ("", "CT"):
        values, padded = _padding_to_air(values, notes)
        real = values if padded is None else values[~padded]
        if not real.size:
            raise BadInput(f"{name}: all values are padding; expected an image with contrast: export it again")
        channel = _channel(real, windowed, notes, name)
        if channel == "CT":
            _note_fill(values, notes)
    values = _clipped(values, channel, window, notes, name)
    return image_like(_compact(values, channel), image), channel, tuple(notes)


def not_hu(values: np.ndarray) -> str | None:
    """Channel name of values that are a display window and not HU; None for values that may be HU or stored values.

    HU of a patient range from air or fat (below −50) to bone. Values in 0..255, and values in −20..20 with fractions
    (scaled to 0..1, to −1..1, or by mean and standard deviation), are therefore not HU.
    """
    low, high = float(values.min()), float(values.max())
    if low >= 0 and 1 < high <= 255:
        return WINDOW_8BIT if _whole_numbers(values) else WINDOWED
    if (low >= -1 and high <= 1) or (low > -20 and high < 20 and not _whole_numbers(values)):
        return WINDOWED
    return None


def _channel(values: np.ndarray, windowed: bool | None, notes: list[Note], name: str) -> str:
    """Channel name of CT values without padding."""
    low, high = float(values.min()), float(values.max())
    described = f"{name}: values from {low:g} to {high:g}"
    scaled = not_hu(values)
    if windowed or (windowed is None and scaled):
        channel = WINDOW_8BIT if scaled == WINDOW_8BIT else WINDOWED
        text = f"values from {low:g} to {high:g} are a display window and not HU: the channel is {channel}"
        notes.append(Note(text, Kind.REINTERPRETED, what=f"patients with a display window instead of HU ({channel})"))
        return channel
    if low >= 0 and high > 255:
        raise BadInput(
            f"{described}, none below 0; expected HU, where air is {AIR}; these look like stored values "
            f"whose rescale intercept was lost: give --rescale 1,-1024 if -1024 is the intercept"
        )
    below = float((values < LOWEST).mean())
    if below > 0.05:
        raise BadInput(
            f"{described}, {100 * below:.0f} % of them below {LOWEST}; expected HU, where air is {AIR}; "
            f"the rescale intercept seems to be subtracted twice: give --rescale 1,1024 if that is the case"
        )
    if scaled:
        notes.append(
            Note(f"the archive declares values from {low:g} to {high:g} as HU, but they look like a display window")
        )
    elif low > -200:
        text = (
            f"no value is below {low:g} HU: the image is cropped to soft tissue or clipped, and shows no lung texture"
        )
        notes.append(Note(text))
    return "CT"


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
    if channel == "CT" and values.min() >= limits.min and values.max() <= limits.max and _whole_numbers(values):
        return np.round(values).astype(np.int16)
    return values.astype(np.float32)


def _whole_numbers(values: np.ndarray) -> bool:
    """Whether all values are whole numbers but for rounding."""
    if np.issubdtype(values.dtype, np.integer):
        return True
    return all(
        bool(np.abs(part - np.round(part)).max() <= ROUNDING)
        for part in np.array_split(values.ravel(), 64)
        if len(part)
    )
