"""A generator's card, ``generator.json``: settings, training cases, finished or not; can be read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nnunet_difflung.runtime.files import check_format, read_own_json

CARD = "generator.json"
CARD_FORMAT = 1
TRAINING_FILES = "training_files"  # one hash for the files of the training cases, whatever the cases are called
SPACING = "spacing"  # mm of the training cases' voxels, as far as the training depends on them


def read_card(folder: Path) -> dict[str, Any]:
    """Reads the card in a generator's folder.

    Raises:
        BadInput: it is damaged, or a newer version of this package wrote it.
    """
    remedy = f", or delete the folder {folder} to train its generator anew"
    content = read_own_json(folder / CARD, remedy)
    check_format(folder / CARD, content, CARD_FORMAT, remedy)
    return content
