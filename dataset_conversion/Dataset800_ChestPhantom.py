"""Generates a chest CT phantom as an nnU-Net dataset; no data of patients is needed.

The anatomy of each patient is drawn at random: chest wall, ribs, spine, heart, great vessels, and lungs with branching
vessels, in HU, with the blur and the noise of a scanner. The labels are those of a reader who errs by about half a
pixel. Normal lung, emphysema and ILD have the shares of pixels of the Diff-Lung paper (12.3, 0.3 and 3.8 %), and only
about a quarter of the patients have emphysema, so that an ordinary U-Net segments it poorly.
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
    warn_of_old_preprocessing,
    write_case,
)
from nnunet_difflung.dataset_conversion.phantom.anatomy import Thorax
from nnunet_difflung.dataset_conversion.phantom.cohort import (
    THICKNESS_MM,
    CohortSettings,
    calibrate,
    draw_cohort,
    painting_grid,
    patient_labels,
    slice_heights,
)
from nnunet_difflung.dataset_conversion.phantom.fields import FIELD_OF_VIEW_MM
from nnunet_difflung.dataset_conversion.phantom.lesions import LABELS, Extent
from nnunet_difflung.dataset_conversion.phantom.texture import Painter
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.console import command

PREFIX = "phantom"


@dataclass(frozen=True)
class PhantomSettings:
    """Settings of a phantom dataset.

    Attributes:
        cohort: settings of the patients.
        size: pixels along x and y; the field of view is always 360 mm.
        volumes: whether to write a volume per patient instead of a case per slice.
    """

    cohort: CohortSettings = field(default_factory=CohortSettings)
    size: int = 128
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
    grid = painting_grid(size)
    truth, labels = patient_labels(patient, heights, extent, size, grid, cohort.label_noise)
    step = float(numbers[1]) if len(numbers) > 1 else THICKNESS_MM
    painter = Painter(Thorax(patient, extent.lung_scale), min(step, THICKNESS_MM))
    images = [
        painter.slice(tissue, z, size, patient.rng(4, i))
        for i, (tissue, z) in enumerate(zip(truth, heights, strict=True))
    ]
    name = f"{PREFIX}_p{index + (cohort.patients if test else 0):03d}"
    pixel = FIELD_OF_VIEW_MM / size
    corner = (pixel - FIELD_OF_VIEW_MM) / 2
    if settings.volumes:
        return [
            Case(name, name, np.stack(images), np.stack(labels), (pixel, pixel, step), (corner, corner, heights[0]))
        ]
    return [
        Case(f"{name}_s{number:03d}", name, image[None], label[None], (pixel, pixel, THICKNESS_MM), (corner, corner, z))
        for image, label, z, number in zip(images, labels, heights, numbers, strict=True)
    ]


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
        report_of_dataset(folder, records, LABELS, "CT", processes)
    return records


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(
        prog="python -m nnunet_difflung.dataset_conversion.Dataset800_ChestPhantom",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    p.add_argument(
        "--size",
        type=int,
        default=128,
        help="pixels along x and y of the 360 mm field of view; 64 gives pixels of 5.6 mm, 256 of 1.4 mm",
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
    size = args.size if args.spacing is None else round(FIELD_OF_VIEW_MM / args.spacing)
    cohort = CohortSettings(
        args.patients, args.test_patients, args.slices or (24 if args.volumes else 6), args.seed, args.label_noise
    )
    full_name = dataset_name(args.dataset_id, args.name)
    records = build_phantom(PhantomSettings(cohort, size, args.volumes), full_name, args.np, args.overwrite)
    print(summary(records, LABELS))
    print(warn_of_old_preprocessing(full_name) or f"Next: nnUNetv2_plan_and_preprocess -d {args.dataset_id} -c 2d")


if __name__ == "__main__":
    main()
