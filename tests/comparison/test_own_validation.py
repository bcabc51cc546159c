"""Records of trainings that difflung_compare cannot read."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_difflung.comparison import own_validation
from nnunet_difflung.errors import BadInput


@pytest.mark.parametrize("error", [FileNotFoundError("gone"), PermissionError("not yours"), BadInput("damaged")])
def test_scores_are_compared_without_a_checkpoint_that_can_be_read(monkeypatch, error):
    def unreadable(path: Path) -> dict:
        raise error

    monkeypatch.setattr(own_validation, "read_checkpoint", unreadable)
    assert own_validation._record_in(Path("checkpoint_final.pth")) is None
