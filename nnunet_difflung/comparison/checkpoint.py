"""Reads the checkpoints of trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunet_difflung.errors import BadInput


def read_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint that nnU-Net has written; its tensors are read from the file when they are used.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: this user may not read it.
        BadInput: it is damaged, or is no checkpoint of nnU-Net.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    import torch  # takes seconds, and most commands that read trainings need no checkpoint

    try:
        content = torch.load(path, map_location="cpu", weights_only=False, mmap=True)
        content["network_weights"], content["init_args"]["configuration"], content["trainer_name"]
    except PermissionError:
        raise
    except Exception as error:  # torch.load has no error of its own
        raise BadInput(
            f"{path} cannot be read as a checkpoint of nnU-Net ({type(error).__name__}); restore it from a copy, or "
            f"train the fold again"
        ) from error
    return content
