"""The device that a command computes on; kept apart from the options, whose parsers must not lead to PyTorch."""

from __future__ import annotations

from nnunet_difflung.runtime.device import check_device, default_device


def chosen_device(device: str | None) -> str:
    """The device that was asked for, or the fastest one here.

    Raises:
        BadInput: PyTorch does not see the device.
    """
    device = device or default_device()
    check_device(device)
    return device
