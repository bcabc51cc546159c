"""Folds and methods whose synthetic cases or generators a command is about."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Selection:
    """Which runs' cases, or which generators, are meant.

    Attributes:
        folds: folds, ``all`` among them for cases that are in no fold; none: every fold.
        method: None: every method.
    """

    folds: tuple[int | str, ...] = ()
    method: str | None = None

    def __bool__(self) -> bool:
        return bool(self.folds) or self.method is not None

    def has(self, method: str, fold: int | str) -> bool:
        """Whether the cases or the generator of a method and fold are meant."""
        return self.method in (None, method) and (not self.folds or fold in self.folds)

    def __str__(self) -> str:
        parts = [f"method {self.method}"] if self.method else []
        if self.folds:
            parts.append(f"fold{'s' if len(self.folds) > 1 else ''} {', '.join(map(str, self.folds))}")
        return ", ".join(parts)


EVERYTHING = Selection()
