"""A segmenter that learns the tiny dataset in a second."""

from __future__ import annotations

from functools import partial

from nnunet_difflung.preparing import fold as fold_module
from nnunet_difflung.segmenter.config import SegmenterConfig

_QUICK = {"features": (8, 16), "patch_size": 32, "batch_size": 4, "steps": 100, "learning_rate": 2e-2}
SMALL = SegmenterConfig(**_QUICK)


def small_segmenters(monkeypatch, **changes) -> None:
    """Makes every command train the small segmenter, or one with other settings."""
    monkeypatch.setattr(fold_module, "SegmenterConfig", partial(SegmenterConfig, **(_QUICK | changes)))
