"""Cells of tables that are numbers."""

from __future__ import annotations

from nnunet_difflung.pages.blocks import Value


def number(value: float | None, digits: int, signed: bool = False) -> Value:
    """A cell with a number; a dash where there is none."""
    if value is None:
        return Value(None, "–")
    return Value(value, f"{round(value, digits) + 0.0:{'+' if signed else ''}.{digits}f}")  # -0.0 + 0.0 is 0.0
