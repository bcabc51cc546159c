"""Options that the converters share: what becomes of a patient, and which patients are for the test part."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass

from nnunet_difflung.errors import BadInput


@dataclass(frozen=True)
class ConvertOptions:
    """How an archive's patients become cases.

    Attributes:
        form: ``slices`` (a case for each slice, as in the Diff-Lung paper) or ``volumes``.
        all_slices: also slices on which nothing is drawn, as long as they hold a label (derived lung counts).
        spacing: mm of square pixels to resample to; None keeps the archive's.
        size: instead of ``spacing``: pixels along the longer side.
        crop_lungs: margin in mm around the lungs' box to cut to; None keeps the whole image.
        window: lowest and highest HU to keep; None keeps all.
        rescale: slope and intercept that bring the stored values to HU; None where they are HU.
    """

    form: str = "slices"
    all_slices: bool = False
    spacing: float | None = None
    size: int | None = None
    crop_lungs: float | None = None
    window: tuple[float, float] | None = None
    rescale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_shape(self.spacing, self.size, self.crop_lungs)
        if self.window is not None and not self.window[0] < self.window[1]:
            raise BadInput(f"--window {self.window[0]:g},{self.window[1]:g}: expected the lower value first")
        if self.rescale is not None and self.rescale[0] == 0:
            raise BadInput(f"--rescale 0,{self.rescale[1]:g}: a slope of 0 leaves one value; expected 1 for most CT")
        if self.all_slices and self.form == "volumes":
            raise BadInput("--all-slices belongs to --as slices; volumes hold all of them anyway")

    def as_dict(self) -> dict:
        """For the conversion's manifest."""
        return asdict(self)


def check_shape(spacing: float | None, size: int | None, crop_lungs: float | None) -> None:
    """Checks what --spacing (mm), --size (pixels) and --crop-lungs (mm) ask for.

    Raises:
        BadInput: two that exclude each other, or a value out of range.
    """
    if spacing is not None and size is not None:
        raise BadInput("--spacing and --size exclude each other; give one")
    for option, value, low, high in (
        ("--spacing", spacing, 0.1, 50),
        ("--size", size, 16, 4096),
        ("--crop-lungs", crop_lungs, 0, 1000),
    ):
        if value is not None and not low <= value <= high:
            raise BadInput(f"{option} {value:g}: expected {low:g} to {high:g}")


def add_form_option(group: argparse._ActionsContainer, which: str) -> None:
    """``--as``; ``which`` says of which slices a case is made."""
    group.add_argument(
        "--as",
        dest="form",
        choices=("slices", "volumes"),
        default="slices",
        help=f"a case for each slice {which}, as in the Diff-Lung paper (default), or for each volume",
    )


def add_shape_options(group: argparse._ActionsContainer, crop: bool = True) -> None:
    """``--spacing``, ``--size`` and, where the lungs are known (``crop``), ``--crop-lungs``."""
    group.add_argument("--spacing", type=float, metavar="MM", help="resample in plane to square pixels of this size")
    group.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help="resample in plane so that the longer side has this "
        "many pixels (pixel sizes then differ between patients when the lungs are cropped; --spacing "
        "keeps them equal)",
    )
    if crop:
        group.add_argument(
            "--crop-lungs",
            type=float,
            nargs="?",
            const=10.0,
            metavar="MM",
            help="cut each patient to the box of lungs and lesions and this margin (10 mm if no number follows)",
        )


def add_test_options(group: argparse._ActionsContainer) -> None:
    """``--test``, ``--test-share`` and ``--seed``."""
    group.add_argument("--test", nargs="+", default=[], metavar="PATIENT", help="patients for imagesTs/labelsTs")
    group.add_argument(
        "--test-share",
        type=float,
        metavar="SHARE",
        help="instead of --test: a share of the patients, dealt so that rare structures are on both sides",
    )
    group.add_argument("--seed", type=int, default=0, help="of folds and --test-share (default 0)")


def check_test_options(options: argparse.Namespace) -> None:
    """Checks what ``add_test_options`` has read.

    Raises:
        BadInput: two options that exclude each other, or no share.
    """
    if options.test and options.test_share is not None:
        raise BadInput("--test and --test-share exclude each other; give one")
    if options.test_share is not None and not 0 < options.test_share < 1:
        raise BadInput(f"--test-share {options.test_share:g}: expected a share between 0 and 1")


def add_running_options(group: argparse._ActionsContainer) -> None:
    """``-np`` and ``--overwrite``."""
    group.add_argument(
        "-np", type=int, default=2, metavar="N", help="patients converted at a time (default 2); same result"
    )
    group.add_argument("--overwrite", action="store_true", help="replace the dataset if it exists")
