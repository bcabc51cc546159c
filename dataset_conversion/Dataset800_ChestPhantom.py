"""Generates a chest CT phantom as an nnU-Net dataset; no data of patients is needed.

The anatomy of each patient is drawn at random: chest wall, ribs, spine, heart, great vessels, and lungs with branching
vessels, in HU. Emphysema is a texture in four forms (mild, moderate and severe centrilobular, and paraseptal), with
the figures of reader-labelled patches of real CT; all four have one label. Each patient lies in one of six scanners
(two reconstruction kernels, three doses). The labels are those of a reader who errs by about half a pixel. Normal
lung, emphysema and ILD have the shares of pixels of the Diff-Lung paper (12.3, 0.3 and 3.8 %), and only about a quarter
of the patients have emphysema, so that an ordinary U-Net segments it poorly.

--classic draws the earlier phantom instead, whose emphysema is darker than normal lung but has no texture of its own.
The tables in docs/results that were measured on a phantom used that one.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from nnunet_difflung.dataset_conversion.case import Case, CaseRecord
from nnunet_difflung.dataset_conversion.output.report import report_of_dataset
from nnunet_difflung.dataset_conversion.output.staged_dataset import staged_dataset
from nnunet_difflung.dataset_conversion.output.writer import (
    dataset_name,
    finish_dataset,
    for_each_patient,
    summary,
    what_next,
    write_case,
)
from nnunet_difflung.dataset_conversion.phantom.anatomy import Thorax
from nnunet_difflung.dataset_conversion.phantom.classic import ClassicPainter
from nnunet_difflung.dataset_conversion.phantom.cohort import (
    FORMS_DEALT,
    CohortSettings,
    calibrate,
    draw_cohort,
    patient_labels,
    slice_heights,
)
from nnunet_difflung.dataset_conversion.phantom.emphysema import FORMS
from nnunet_difflung.dataset_conversion.phantom.fields import FIELD_OF_VIEW_MM
from nnunet_difflung.dataset_conversion.phantom.lesions import LABELS, Extent, FormedLesions, Lesions, lesions_of
from nnunet_difflung.dataset_conversion.phantom.parenchyma import SLICE_MM, Painter
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import raw_folder
from nnunet_difflung.runtime.arguments import CommandParser
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.files import write_json
from nnunet_difflung.runtime.messages import open_log, report, say

PREFIX = "phantom"
CLASSIC_SLICE_MM = 5.0
SIZE, CLASSIC_SIZE = 288, 128
ABOUT_PATIENTS = "phantom_patients.json"


@dataclass(frozen=True)
class PhantomSettings:
    """Settings of a phantom dataset.

    Attributes:
        cohort: settings of the patients.
        size: pixels along x and y; the field of view is always 360 mm.
        volumes: whether to write a volume per patient instead of a case per slice.
    """

    cohort: CohortSettings = field(default_factory=CohortSettings)
    size: int = SIZE
    volumes: bool = False

    def __post_init__(self):
        cohort = self.cohort
        for option, value, low, high in (
            ("--size", self.size, 16, 1024),
            ("--patients", cohort.patients, 1, 999),
            ("--test-patients", cohort.test_patients, 0, 999),
            ("--slices", cohort.slices, 1, 60),
            ("--seed", cohort.seed, 0, 2**31),
            ("--label-noise", cohort.label_noise, 0, 3),
        ):
            if not low <= value <= high:
                raise BadInput(f"{option} {value}: expected a value from {low} to {high}")


def phantom_cases(settings: PhantomSettings, extent: Extent, test: bool, index: int) -> list[Case]:
    """All cases of a patient; they depend on nothing but the arguments.

    Args:
        settings: of the dataset.
        extent: from ``calibrate``.
        test: whether the patient belongs to the test part.
        index: of the patient in that part.
    """
    cohort, size = settings.cohort, settings.size
    patient = draw_cohort(cohort, test)[index]
    heights, numbers = slice_heights(patient, cohort.slices)
    lesions = lesions_of(Thorax(patient, extent.lung_scale), heights, extent)
    truth, labels = patient_labels(lesions, heights, size, cohort.label_noise)
    thickness = CLASSIC_SLICE_MM if cohort.classic else SLICE_MM
    step = float(numbers[1]) if len(numbers) > 1 else thickness
    images = _images(lesions, truth, heights, size, step)
    name = patient_name(settings, test, index)
    pixel = FIELD_OF_VIEW_MM / size
    corner = (pixel - FIELD_OF_VIEW_MM) / 2
    if settings.volumes:
        return [
            Case(name, name, np.stack(images), np.stack(labels), (pixel, pixel, step), (corner, corner, heights[0]))
        ]
    return [
        Case(f"{name}_s{number:03d}", name, image[None], label[None], (pixel, pixel, thickness), (corner, corner, z))
        for image, label, z, number in zip(images, labels, heights, numbers, strict=True)
    ]


def patient_name(settings: PhantomSettings, test: bool, index: int) -> str:
    """Name of a patient of the training or of the test part."""
    return f"{PREFIX}_p{index + (settings.cohort.patients if test else 0):03d}"


def _images(
    lesions: Lesions, truth: list[np.ndarray], heights: list[float], size: int, step: float
) -> list[np.ndarray]:
    """The slices of a patient whose tissue is ``truth``, ``step`` mm apart."""
    rng = lesions.thorax.patient.rng
    if not isinstance(lesions, FormedLesions):
        classic = ClassicPainter(lesions.thorax, min(step, CLASSIC_SLICE_MM))
        return [
            classic.slice(tissue, z, size, rng(4, i)) for i, (tissue, z) in enumerate(zip(truth, heights, strict=True))
        ]
    painter = Painter(lesions.thorax)
    return [
        painter.slice(tissue, lesions.paraseptal(tissue, z), z, size, rng(4, i))
        for i, (tissue, z) in enumerate(zip(truth, heights, strict=True))
    ]


def about_patients(settings: PhantomSettings) -> dict[str, dict]:
    """Name of each patient → scanner and form of the emphysema, which no network sees."""
    return {
        patient_name(settings, test, index): {
            "kernel": patient.scanner.kernel,
            "dose": patient.scanner.dose,
            "noise_hu": patient.scanner.noise_hu,
            "emphysema": patient.form or "none",
        }
        for test in (False, True)
        for index, patient in enumerate(draw_cohort(settings.cohort, test))
        if patient.scanner
    }


def _write_patient(
    settings: PhantomSettings, extent: Extent, folder: Path, part_and_index: tuple[bool, int]
) -> list[CaseRecord]:
    test, index = part_and_index
    return [write_case(folder, case, len(LABELS), test) for case in phantom_cases(settings, extent, test, index)]


def build_phantom(
    settings: PhantomSettings,
    full_name: str = "Dataset800_ChestPhantom",
    processes: int = 2,
    overwrite: bool = False,
    verify: bool = True,
) -> list[CaseRecord]:
    """Generates the dataset ``$nnUNet_raw/<full_name>``; the same settings give the same files, byte for byte.

    Args:
        settings: of the dataset.
        full_name: ``DatasetXXX_Name``.
        processes: number of patients generated at a time.
        overwrite: whether to replace a dataset of this name.
        verify: whether nnU-Net checks the result.

    Returns:
        A record of every case written.

    Raises:
        BadInput: the dataset exists already, or ``nnUNet_raw`` is not set.
    """
    cohort = settings.cohort
    with staged_dataset(full_name, overwrite) as folder:
        extent = calibrate(cohort, settings.size)
        patients = [(False, i) for i in range(cohort.patients)] + [(True, i) for i in range(cohort.test_patients)]
        write = partial(_write_patient, settings, extent, folder)
        records = for_each_patient(write, patients, processes)
        finish_dataset(
            folder,
            records,
            LABELS,
            ["CT"],
            cohort.seed,
            verify,
            name=full_name,
            description=f"Synthetic chest CT phantom, seed {cohort.seed}; no patient's data",
            license="generated; no rights reserved",
            reference="nnunet_difflung",
        )
        if not cohort.classic:
            write_json(folder / ABOUT_PATIENTS, about_patients(settings))
        report_of_dataset(folder, records, LABELS, "CT", processes)
    return records


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the default of an option that has one; a switch that is off, or a choice made elsewhere, is none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = CommandParser(
        prog="python -m nnunet_difflung.dataset_conversion.Dataset800_ChestPhantom",
        description=__doc__,
        formatter_class=_Defaults,
    )
    p.add_argument(
        "--size",
        type=int,
        help="pixels along x and y of the 360 mm field of view; 64 gives pixels of 5.6 mm, 512 of 0.7 mm; default: "
        f"{SIZE} (1.25 mm), or {CLASSIC_SIZE} with --classic",
    )
    p.add_argument(
        "--spacing",
        type=float,
        help="pixel size in mm, instead of --size (rounded so that the field of view holds whole pixels)",
    )
    p.add_argument(
        "--patients", type=int, default=30, help="number of training patients, split into 5 folds by patient"
    )
    p.add_argument("--test-patients", type=int, default=15, help="number of test patients (imagesTs, labelsTs)")
    p.add_argument(
        "--slices", type=int, help="slices per patient, spread over the lungs; if not given, 6, or 24 with --volumes"
    )
    p.add_argument(
        "--volumes", action="store_true", help="write a volume for each patient instead of a case for each slice"
    )
    p.add_argument(
        "--label-noise",
        type=float,
        default=1.0,
        help="errors of the reader: 0 for none, 1 for about half a pixel along the outlines",
    )
    p.add_argument(
        "--forms",
        nargs="+",
        choices=FORMS,
        default=list(FORMS_DEALT),
        help="forms of emphysema, dealt in turn to the patients who have it; mild differs from normal lung by small "
        "holes and not by its mean HU",
    )
    p.add_argument(
        "--classic",
        action="store_true",
        help="draw the earlier phantom, in which emphysema is a level of HU and not a texture, as for the tables in "
        "docs/results",
    )
    p.add_argument("--seed", type=int, default=0, help="of the patients; another seed gives other patients")
    p.add_argument("--dataset-id", type=int, default=800, help="nnU-Net dataset id")
    p.add_argument(
        "--name", default="ChestPhantom", help="name of the dataset after its id, as in Dataset800_ChestPhantom"
    )
    p.add_argument(
        "-np", type=int, default=2, help="number of patients generated at a time; does not change the result"
    )
    p.add_argument("--overwrite", action="store_true", help="replace the dataset if it already exists")
    return p


@command
def main(arguments: list[str] | None = None) -> None:
    """Console entry point."""
    args = parser().parse_args(arguments)
    if args.spacing is not None and args.spacing <= 0:
        raise BadInput(f"--spacing {args.spacing}: expected a pixel size in mm greater than 0")
    if args.classic and tuple(args.forms) != FORMS_DEALT:
        raise BadInput("--forms: the classic phantom has a single form of emphysema; leave out --forms or --classic")
    size = args.size if args.size is not None else CLASSIC_SIZE if args.classic else SIZE
    if args.spacing is not None:
        size = round(FIELD_OF_VIEW_MM / args.spacing)
    cohort = CohortSettings(
        args.patients,
        args.test_patients,
        args.slices or (24 if args.volumes else 6),
        args.seed,
        args.label_noise,
        forms=tuple(args.forms),
        classic=args.classic,
    )
    full_name = dataset_name(args.dataset_id, args.name)
    records = build_phantom(PhantomSettings(cohort, size, args.volumes), full_name, args.np, args.overwrite)
    folder = raw_folder(full_name)
    open_log(folder)
    report(dataset=full_name, folder=folder, cases=len(records), patients=len({record.patient for record in records}))
    say(summary(records, LABELS))
    say(what_next(full_name, args.dataset_id))


if __name__ == "__main__":
    main()
