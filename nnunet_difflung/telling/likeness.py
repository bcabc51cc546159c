"""How alike planned and real lesions are, in sentences."""

from __future__ import annotations

_NAMES = {
    "front_back": "place from front to back",
    "sideways": "place from side to side",
    "height": "height",
    "depth": "depth below the pleura",
    "contact": "contact to the pleura",
    "size": "size",
    "share_of_lung": "share of a slice's lung",
    "count": "number in a slice",
    "border": "share of other pathologies in the lung around it",
    "other_pathologies": "share of other pathologies in a slice's lung",
}
_UNITS = {"depth": " mm"}
_ADVICE = (
    "where planned masks differ from real ones, a segmentation could learn the difference instead of the class "
    "(docs/report.md)"
)
Likeness = dict[str, dict[str, dict]]


def named(figure: str) -> str:
    """What a figure of ``lesions.likeness`` is called."""
    return _NAMES[figure]


def value_of(figure: str, row: dict, of: str) -> str:
    """The median of a figure with its unit; ``of``: ``planned`` or ``real``."""
    return f"{row[of]:.3g}{_UNITS.get(figure, '')}"


def describe_likeness(likeness: Likeness) -> list[str]:
    """A line for each class with the AUC of every figure, and one for each figure that tells planned from real.

    Args:
        likeness: result of ``lesions.likeness.compare`` for each class.
    """
    lines = []
    for name, rows in likeness.items():
        for verdict, sentence in (
            (True, "are like real ones in {} (AUC; 0.50: no difference)"),
            (None, "against real ones, AUC of {} (not judged: too few cases)"),
        ):
            figures = [f"{_NAMES[figure]} {row['auc']:.2f}" for figure, row in rows.items() if row["alike"] is verdict]
            if figures:
                lines.append(f"  masks of {name} {sentence.format(', '.join(figures))}")
        lines += [
            f"  Warning: masks of {name} differ from real ones in {_NAMES[figure]}: "
            f"{value_of(figure, row, 'planned')}, in training cases {value_of(figure, row, 'real')} (medians; AUC "
            f"{row['auc']:.2f}, expected {0.5 - row['limit']:.2f} to {0.5 + row['limit']:.2f})"
            for figure, row in rows.items()
            if row["alike"] is False
        ]
    if any(row["alike"] is False for rows in likeness.values() for row in rows.values()):
        lines.append(f"  note: {_ADVICE}")
    return lines


def differing(likeness: Likeness) -> list[str]:
    """A line for each class whose planned lesions differ from real ones."""
    found = {name: [_NAMES[f] for f, row in rows.items() if row["alike"] is False] for name, rows in likeness.items()}
    return [
        f"  Warning: masks of {name} differ from real ones in {', '.join(figures)} (AUC in the plan above)"
        for name, figures in found.items()
        if figures
    ]
