"""What a conversion does only if it is told to, because it may change a label or an intensity.

Without ``--accept NAME`` such a patient is refused; the message gives the name. With it, the conversion goes on, and a
note says what was changed.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from enum import StrEnum


class Accept(StrEnum):
    """Names for ``--accept``; the value is what the user types."""

    MOVED_CONTOURS = "moved-contours"
    OTHER_SERIES = "other-series"
    ROUNDED_LABELS = "rounded-labels"
    BORROWED_RESCALING = "borrowed-rescaling"
    UNUSUAL_VALUES = "unusual-values"


MEANING = {
    Accept.MOVED_CONTOURS: "contours that do not lie on the slices go to the nearest ones",
    Accept.OTHER_SERIES: "structures drawn on a series that is missing are placed on the series that is there",
    Accept.ROUNDED_LABELS: "label values that are not whole numbers are rounded",
    Accept.BORROWED_RESCALING: "slices without a rescaling to HU get that of the other slices",
    Accept.UNUSUAL_VALUES: "values that do not look like HU are taken as HU",
}


def add_accept_option(group: argparse._ActionsContainer) -> None:
    """Adds ``--accept``."""
    group.add_argument(
        "--accept",
        nargs="+",
        action="extend",
        default=[],
        type=_name,
        metavar="NAME",
        help="go on where a patient would be refused, since labels or intensities may change; each change is counted "
        "at the end: " + "; ".join(f"{name} ({MEANING[name]})" for name in Accept),
    )


def _name(text: str) -> Accept:
    try:
        return Accept(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected {', '.join(Accept)}") from None


def accepted(name: Accept, accept: Collection[Accept]) -> bool:
    """Whether the user accepts a change."""
    return name in accept


def remedy(name: Accept) -> str:
    """The part of a message that says how to go on in spite of a doubt."""
    return f"or give --accept {name} to go on ({MEANING[name]})"
