"""What the values of an image are: HU, stored values whose intercept is missing, or a display window; and padding.

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

from nnunet_difflung.errors import BadInput

if TYPE_CHECKING:
    import SimpleITK as sitk

AIR = -1000  # HU; padding becomes air as HU define it: −1024 would leave a rim of 24 HU in the room's air
LOWEST = -1024
PADDING = (-2000, -2048, -3000, -3024, -3048, -3071, -3072, -4000, -10000, -32768)
WINDOW_8BIT, WINDOWED = "lung_window_8bit", "windowed"
ROUNDING = 0.01  # how far from whole numbers slope and intercept in floating point leave values that were whole


def prepare_intensities(
    image: sitk.Image, modality: str, windowed: bool | None, window: tuple[float, float] | None, name: str = "image"
) -> tuple[sitk.Image, str, tuple[str, ...]]:
    """Finds out what the values are, sets padding to air, clips, and chooses channel name and dtype.

    Nothing is ever shifted or scaled by guess: values that look like stored ones without their intercept are refused.

    Args:
        image: 2D or 3D, one component; HU after rescaling for CT.
        modality: as DICOM has it; ``""`` where the archive does not say, and then CT is assumed.
        windowed: the values are a display window (True) or HU (False); None lets the values tell.
        window: lowest and highest value to keep, HU for CT; None keeps all.
        name: file or patient as the user knows it, for the message.

    Returns:
        Image in the same place (int16 where CT values are whole numbers, else float32), channel name, notes.
        The name is ``CT`` for HU only, since nnU-Net normalises that name over the whole dataset; ``lung_window_8bit``
        for whole numbers of 0..255, ``windowed`` for other scaled values, the modality for what is not CT.

    Raises:
        BadInput: NaN or infinite values, one value everywhere, stored values without intercept, an intercept that was
            subtracted twice, a window that is empty or in HU for values that are none.
    """
    import SimpleITK as sitk

    from nnunet_difflung.dataset_conversion.imaging.geometry import image_like

    values = sitk.GetArrayFromImage(image)
    if np.issubdtype(values.dtype, np.floating) and not (bad := np.isfinite(values)).all():
        raise BadInput(
            f"{name}: {int((~bad).sum())} values are NaN or infinite; expected numbers; "
            f"set them to {AIR} (air) or export the image again"
        )
    if values.min() == values.max():
        raise BadInput(f"{name}: every value is {values.min():g}; expected a picture; export the image again")
    notes: list[str] = []
    channel = modality
    if modality in ("", "CT"):
        values, padded = _padding_to_air(values, notes)
        real = values if padded is None else values[~padded]
        if not real.size:
            raise BadInput(f"{name}: padding values only; expected a picture; export the image again")
        channel = _channel(real, windowed, notes, name)
        if channel == "CT":
            _note_fill(values, notes)
    values = _clipped(values, channel, window, notes, name)
    return image_like(_compact(values, channel), image), channel, tuple(notes)


def not_hu(values: np.ndarray) -> str | None:
    """Channel name of values that are a display window and no HU; None for what may be HU or stored values.

    HU of a patient reach from air or fat (below −50) to bone, so a range that begins at 0 and ends by 255, or lies
    within −20..20 with fractions (scaled to 0..1, to −1..1, or by mean and standard deviation), is none.
    """
    low, high = float(values.min()), float(values.max())
    if low >= 0 and 1 < high <= 255:
        return WINDOW_8BIT if _whole(values) else WINDOWED
    if (low >= -1 and high <= 1) or (low > -20 and high < 20 and not _whole(values)):
        return WINDOWED
    return None


def _channel(values: np.ndarray, windowed: bool | None, notes: list[str], name: str) -> str:
    """Channel name of CT values without padding."""
    low, high = float(values.min()), float(values.max())
    found = f"{name}: values from {low:g} to {high:g}"
    scaled = not_hu(values)
    if windowed or (windowed is None and scaled):
        channel = WINDOW_8BIT if scaled == WINDOW_8BIT else WINDOWED
        notes.append(f"values from {low:g} to {high:g} are a display window and no HU: channel {channel}")
        return channel
    if low >= 0 and high > 255:
        raise BadInput(
            f"{found}, none below 0; expected HU, where air is {AIR}; these look like stored values "
            f"without their rescale intercept: give --rescale 1,-1024 if that is the intercept"
        )
    below = float((values < LOWEST).mean())
    if below > 0.05:
        raise BadInput(
            f"{found}, {100 * below:.0f} % of them below {LOWEST}; expected HU, where air is {AIR}; "
            f"the rescale intercept looks subtracted twice: give --rescale 1,1024 if that is so"
        )
    if scaled:
        notes.append(f"the archive calls values from {low:g} to {high:g} HU; they look like a display window")
    elif low > -200:
        notes.append(f"no value below {low:g} HU: cut to soft tissue or clipped, lung texture is not in the image")
    return "CT"


def _padding_to_air(values: np.ndarray, notes: list[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Values with padding set to ``AIR``, and where it was.

    Padding is one of the known constants, or a constant below −1024 in most corners of the slices. Other values below
    −1024 are noise or streaks of a wide reconstruction and stay.
    """
    if values.min() >= LOWEST:
        return values, None
    low = np.unique(np.round(values[values < LOWEST]))
    corners = np.round(values[..., [0, 0, -1, -1], [0, -1, 0, -1]]).ravel()
    mode, times = np.unique(corners, return_counts=True)
    constants: set[float] = {float(value) for value in PADDING} & set(low.tolist())
    if times.max() > len(corners) / 2 and mode[times.argmax()] < LOWEST:
        constants.add(float(mode[times.argmax()]))
    if not constants:
        return values, None
    padded = np.isin(np.round(values), list(constants))
    values = np.where(padded, values.dtype.type(AIR), values)
    listed = ", ".join(f"{value:g}" for value in sorted(constants))
    notes.append(f"padding ({listed}) set to air ({AIR} HU): {int(padded.sum())} voxels, {100 * padded.mean():.1f} %")
    return values, padded


def _note_fill(values: np.ndarray, notes: list[str]) -> None:
    """Tells of a constant in the corners that is not air: the fill of a rotation or resampling done elsewhere."""
    corners = values[..., [0, 0, -1, -1], [0, -1, 0, -1]]
    value = corners.flat[0]
    if value > -900 and (corners == value).all() and (share := float((values == value).mean())) > 0.02:
        notes.append(
            f"{100 * share:.0f} % of the voxels are exactly {value:g} HU, all corners among them: the fill "
            f"of an earlier resampling, not changed"
        )


def _clipped(
    values: np.ndarray, channel: str, window: tuple[float, float] | None, notes: list[str], name: str
) -> np.ndarray:
    if window is None:
        return values
    low, high = window
    if not low < high:
        raise BadInput(f"--window {low:g},{high:g}: expected the lower value first")
    if channel in (WINDOW_8BIT, WINDOWED):
        raise BadInput(
            f"{name}: values from {values.min():g} to {values.max():g} are a display window and no HU; "
            f"--window {low:g},{high:g} is in HU: leave it out"
        )
    outside = float(((values < low) | (values > high)).mean())
    notes.append(f"clipped to {low:g}..{high:g}: {100 * outside:.1f} % of the voxels")
    return np.clip(values.astype(np.float32), low, high)


def _compact(values: np.ndarray, channel: str) -> np.ndarray:
    """int16 for whole CT values, uint8 for an 8-bit window, else float32."""
    if channel == WINDOW_8BIT:
        return np.round(values).astype(np.uint8)
    limits = np.iinfo(np.int16)
    if channel == "CT" and values.min() >= limits.min and values.max() <= limits.max and _whole(values):
        return np.round(values).astype(np.int16)
    return values.astype(np.float32)


def _whole(values: np.ndarray) -> bool:
    if np.issubdtype(values.dtype, np.integer):
        return True
    return all(
        bool(np.abs(part - np.round(part)).max() <= ROUNDING)
        for part in np.array_split(values.ravel(), 64)
        if len(part)
    )
