"""Software and machine: optional packages, and versions and hardware for the record of published figures."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

from nnunet_difflung.errors import BadInput

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("nnunet_difflung", "nnunetv2", "torch", "diffusers", "accelerate", "numpy", "monai")


def require(module: str, *, extra: str, why: str, otherwise: str = "") -> ModuleType:
    """Imports a module of an optional package.

    Args:
        module: such as ``monai.metrics``.
        extra: key in setup.py's ``extras_require`` that installs a suitable version of the package.
        why: what it is needed for, to follow "is needed for" in the message.
        otherwise: what to do without the package, to follow "or" in the message; may be empty.

    Raises:
        BadInput: the package is not installed, or the installed version does not have the module.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        installed = _version(package)
        if installed is None:
            fault = "it is not installed"
        else:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            fault = f"the installed version {installed} cannot be used ({reason})"
        choice = f", or {otherwise}" if otherwise else ""
        raise BadInput(
            f"{package} is needed for {why}, but {fault}; run: pip install 'nnunet_difflung[{extra}]'{choice}"
        ) from error


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; of this one with its commit, see ``commit``."""
    found = {name: _version(name) or "not installed" for name in _PACKAGES}
    if at := commit():
        found["nnunet_difflung"] += f"+g{at}"
    return {"python": platform.python_version(), **found}


@cache
def commit(root: Path = _ROOT) -> str:
    """The commit of a checkout with Git, with ``.dirty`` if its tracked files were changed; empty elsewhere."""
    if not (root / ".git").exists():
        return ""
    words = ["git", "-C", str(root), "describe", "--always", "--abbrev=8", "--exclude=*", "--dirty=.dirty"]
    try:
        return subprocess.run(words, capture_output=True, encoding="utf-8", timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):  # no Git, or a checkout of another user
        return ""


def _version(package: str) -> str | None:
    """Version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def machine() -> str:
    """Cores, architecture and GPU of this machine, without its name."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return f"{os.cpu_count()} CPU cores, {platform.machine()}, {gpu}"
