"""What a source of a patient says: the notes of a scan, and the line with which it is refused."""

from __future__ import annotations

import pytest

from nnunet_difflung.dataset_conversion.sources import Source
from nnunet_difflung.errors import BadInput


def counted(source: Source) -> set[tuple[str, int, str]]:
    """Kind, count and subject of every note on a scan."""
    return {(str(note.kind), note.count, note.what or note.text) for note in source.load().notes}


def refused(source: Source) -> str:
    """The one line with which a scan is refused; it holds no UID."""
    with pytest.raises(BadInput) as caught:
        source.load()
    line = str(caught.value)
    assert "\n" not in line
    assert "1.2.826" not in line
    return line
