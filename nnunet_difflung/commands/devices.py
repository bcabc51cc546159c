"""The device that a command computes on; apart from the options, since their parsers must not import PyTorch."""

from __future__ import annotations

from nnunet_difflung.runtime.device import check_device, default_device


def chosen_device(device: str | None) -> str:
    """The requested device, or else the fastest available device.

    Raises:
        BadInput: PyTorch cannot use the device.
    """
    device = device or default_device()
    check_device(device)
    return device
