"""Writes tensors into a file; a fault of the disk is an ``OSError``, as with every other file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_OF_THE_DISK = re.compile(r"\(os error (\d+)\)")


def save_tensors(tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a file of safetensors.

    Args:
        tensors: name → tensor, on any device.
        path: the file; ``replacing`` puts it in its place completely or not at all.
        metadata: text for its header.

    Raises:
        OSError: it cannot be written, such as to a full disk, of which safetensors only says so in its message.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
            path,
            None if metadata is None else dict(metadata),
        )
    except SafetensorError as error:
        number = _OF_THE_DISK.search(str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
