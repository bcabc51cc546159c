"""Options that the converters share: how patients become cases, and which patients are test patients."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nnunet_difflung.dataset_conversion.accept import Accept
from nnunet_difflung.errors import BadInput

# values by which earlier versions worked, which left them out; so their interrupted conversions can be resumed
_EARLIER: dict[str, Any] = {"accept": [], "kernel": "linear", "apart": None, "random_window": None, "least_lung": 0.0}


@dataclass(frozen=True)
class ConvertOptions:
    """How an archive's patients become cases.

    Attributes:
        form: ``slices`` (a case for each slice, as in the Diff-Lung paper) or ``volumes`` (a case for each volume).
        all_slices: whether to keep slices without drawn structures too, if they have a label, such as derived lung.
        spacing: size in mm of square pixels to resample to; None keeps the pixels of the archive.
        size: instead of ``spacing``: number of pixels along the longer side.
        crop_lungs: margin in mm around the bounding box of the labels to crop to; None keeps the whole image.
        window: lowest and highest HU to keep; None keeps all values.
        rescale: slope and intercept that convert stored values to HU; None if the values are HU.
        accept: changes of labels or intensities that the user accepts, see ``accept``.
        kernel: for intensities that are resampled, see ``imaging.resampling.axis_weights``.
        apart: mm; of slices that lie closer together, some are left out. None keeps all of them.
        random_window: side in mm of the window that is cut out of each case at a random place; None for none.
        least_lung: slices without a lesion that have a smaller share of normal lung become no case.
    """

    form: str = "slices"
    all_slices: bool = False
    spacing: float | None = None
    size: int | None = None
    crop_lungs: float | None = None
    window: tuple[float, float] | None = None
    rescale: tuple[float, float] | None = None
    accept: frozenset[Accept] = frozenset()
    kernel: str = "linear"
    apart: float | None = None
    random_window: float | None = None
    least_lung: float = 0.0

    def __post_init__(self) -> None:
        check_shape(self.spacing, self.size, self.crop_lungs)
        if self.window is not None and not self.window[0] < self.window[1]:
            raise BadInput(f"--window {self.window[0]:g},{self.window[1]:g}: expected two values, the lower one first")
        if self.rescale is not None and self.rescale[0] == 0:
            raise BadInput(
                f"--rescale 0,{self.rescale[1]:g}: a slope of 0 makes all values equal; expected another slope, "
                f"which is 1 for most CT"
            )
        if self.all_slices and self.form == "volumes":
            raise BadInput("--all-slices can only be used with --as slices; volumes always hold all slices")

    def as_dict(self) -> dict:
        """The options for the manifest of the conversion."""
        options = {**asdict(self), "accept": sorted(self.accept)}
        for name, earlier in _EARLIER.items():
            if options[name] == earlier:
                del options[name]
        return options


def check_shape(spacing: float | None, size: int | None, crop_lungs: float | None) -> None:
    """Checks the values of --spacing (mm), --size (pixels) and --crop-lungs (mm).

    Raises:
        BadInput: two options exclude each other, or a value is out of range.
    """
    if spacing is not None and size is not None:
        raise BadInput("--spacing and --size exclude each other; give only one of them")
    for option, value, low, high in (
        ("--spacing", spacing, 0.1, 50),
        ("--size", size, 16, 4096),
        ("--crop-lungs", crop_lungs, 0, 1000),
    ):
        if value is not None and not low <= value <= high:
            raise BadInput(f"{option} {value:g}: expected a value from {low:g} to {high:g}")


def add_form_option(group: argparse._ActionsContainer, which: str) -> None:
    """Adds ``--as``; ``which`` says which slices become cases."""
    group.add_argument(
        "--as",
        dest="form",
        choices=("slices", "volumes"),
        default="slices",
        help=f"slices: write a case for each slice {which}, as in the Diff-Lung paper; "
        f"volumes: write a case for each volume (default: slices)",
    )


def add_shape_options(group: argparse._ActionsContainer, crop: bool = True) -> None:
    """Adds ``--spacing``, ``--size`` and, for datasets with lungs (``crop``), ``--crop-lungs``."""
    group.add_argument(
        "--spacing",
        type=float,
        metavar="MM",
        help="resample in plane to square pixels of this size (default: as they are)",
    )
    group.add_argument(
        "--size",
        type=int,
        metavar="PIXELS",
        help=f"resample in plane so that the longer side has this many pixels ({'with --crop-lungs, ' if crop else ''}"
        f"pixel sizes then differ between patients; use --spacing to keep them equal; default: as they are)",
    )
    if crop:
        group.add_argument(
            "--crop-lungs",
            type=float,
            nargs="?",
            const=10.0,
            metavar="MM",
            help="crop each patient to the bounding box of lungs and lesions plus this margin (10 mm if no number is "
            "given; default: not cropped)",
        )


def add_patient_options(group: argparse._ActionsContainer) -> None:
    """Adds ``--patients`` and ``--patient-pattern``, of which at most one may be given."""
    either = group.add_mutually_exclusive_group()
    either.add_argument(
        "--patients",
        type=Path,
        metavar="FILE",
        help="CSV file with the columns case,patient (or JSON file {case: patient}) that says which pictures or scans "
        "belong to the same patient; case is the path in ARCHIVE or the file name, with or without its ending, or the "
        "name that --list shows: for images/p1_0007.png, one of images/p1_0007.png, images/p1_0007, p1_0007.png and "
        "p1_0007; for DICOM, the name that --list shows",
    )
    either.add_argument(
        "--patient-pattern",
        metavar="REGEX",
        help="instead of --patients: matches the whole name of each picture or scan, as --list shows it (p1_0007 in "
        "the example above); its first group is the patient, such as '(.+)_[0-9]+'; '(.+)' says that every picture or "
        "scan is a patient (default for both: DICOM headers, or names where these leave no doubt)",
    )


def add_test_options(group: argparse._ActionsContainer) -> None:
    """Adds ``--test``, ``--test-share`` and ``--seed``."""
    group.add_argument(
        "--test",
        nargs="+",
        default=[],
        metavar="PATIENT",
        help="test patients (imagesTs, labelsTs; default: none)",
    )
    group.add_argument(
        "--test-share",
        type=float,
        metavar="SHARE",
        help="instead of --test: share of the patients to take as test patients, between 0 and 1; they are chosen so "
        "that rare structures are in both parts",
    )
    group.add_argument(
        "--seed", type=int, default=0, help="of the folds and of the choice by --test-share (default: 0)"
    )


def check_test_options(options: argparse.Namespace) -> None:
    """Checks the options of ``add_test_options``.

    Raises:
        BadInput: two options exclude each other, or the share is out of range.
    """
    if options.test and options.test_share is not None:
        raise BadInput("--test and --test-share exclude each other; give only one of them")
    if options.test_share is not None and not 0 < options.test_share < 1:
        raise BadInput(f"--test-share {options.test_share:g}: expected a share between 0 and 1")


def add_running_options(group: argparse._ActionsContainer) -> None:
    """Adds ``-np`` and ``--overwrite``."""
    group.add_argument(
        "-np",
        type=int,
        default=2,
        metavar="N",
        help="number of patients converted at a time (default: 2); does not change the result",
    )
    group.add_argument("--overwrite", action="store_true", help="replace the dataset if it already exists")
