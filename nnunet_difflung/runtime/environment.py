"""What a published figure depends on besides its settings: package versions, machine, the command as typed."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("nnunet_difflung", "nnunetv2", "torch", "diffusers", "accelerate", "numpy", "monai")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on."""
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "not installed"
    return installed


def machine() -> str:
    """Cores, architecture and GPU of this machine, without its name."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} CPU cores, {platform.machine()}, {gpu}"


def without_folder(word: str) -> str:
    """A typed word as it may be published: an absolute path is reduced to its last part."""
    option, equals, value = word.rpartition("=")
    return f"{option}{equals}{Path(value).name if os.path.isabs(value) else value}"
