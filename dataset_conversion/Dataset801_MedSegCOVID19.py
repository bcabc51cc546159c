"""MedSeg's COVID-19 CT volumes (segmentation dataset nr. 2) as an nnU-Net dataset.

MedSeg (medicalsegmentation.com/covid19) publishes them as three archives that unpack to
``rp_im/N.nii.gz`` (CT), ``rp_msk/N.nii.gz`` (1 ground glass, 2 consolidation) and ``rp_lung_msk/N.nii.gz`` (1 lung),
N being the patient. Give the folder that holds the three.

The intensities are a lung window of 8 bits chosen per volume and no HU, so they are stored as they are and the channel
is named ``lung_window_8bit``: nnU-Net then normalises each case by itself. Normal lung is the lung mask
without lesions; a lesion outside the lung mask stays a lesion.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nnunet_difflung.dataset_conversion.case import Case, CaseRecord
from nnunet_difflung.dataset_conversion.imaging.resampling import crop, resized, slices
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
from nnunet_difflung.dataset_conversion.pipeline.options import (
    add_form_option,
    add_running_options,
    add_shape_options,
    check_shape,
)
from nnunet_difflung.dataset_conversion.public.medseg import FOLDERS, find_patients, read_patient
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.console import command

LABELS = {"background": 0, "normal_lung": 1, "ground_glass": 2, "consolidation": 3}
CHANNEL = "lung_window_8bit"


@dataclass(frozen=True)
class MedSegSettings:
    """How the volumes become cases.

    Attributes:
        volumes: one case per volume instead of one per slice with lung.
        spacing: size in mm of square pixels to resample to; None keeps the source's.
        size: instead of ``spacing``: pixels along the longer side.
        crop_lungs: margin in mm around the lungs' box to cut to; None keeps the whole image.
    """

    volumes: bool = False
    spacing: float | None = None
    size: int | None = None
    crop_lungs: float | None = None

    def __post_init__(self):
        check_shape(self.spacing, self.size, self.crop_lungs)


def patient_cases(case: Case, settings: MedSegSettings) -> list[Case]:
    """The cases that a patient's volume becomes: cropped, resampled, cut into slices, as the settings say."""
    if settings.crop_lungs is not None:
        case = crop(case, settings.crop_lungs)
    case = resized(case, settings.spacing, settings.size)
    return [case] if settings.volumes else slices(case)


def _write_patient(
    source: str, settings: MedSegSettings, folder: Path, test: Sequence[str], patient: str
) -> list[CaseRecord]:
    cases = patient_cases(read_patient(source, patient)[0], settings)
    return [write_case(folder, case, len(LABELS), patient in test) for case in cases]


def convert_medseg(
    source: str | Path,
    settings: MedSegSettings | None = None,
    full_name: str = "Dataset801_MedSegCOVID19",
    test_patients: Sequence[int] = (),
    processes: int = 2,
    overwrite: bool = False,
    verify: bool = True,
) -> tuple[list[CaseRecord], float]:
    """Converts MedSeg's folder into ``$nnUNet_raw/<full_name>``.

    Args:
        source: folder that holds ``rp_im``, ``rp_msk`` and ``rp_lung_msk``.
        settings: how; by default native slices with lung.
        full_name: ``DatasetXXX_Name``.
        test_patients: numbers of those who go to imagesTs/labelsTs.
        processes: patients converted at a time.
        overwrite: replace a dataset of this name.
        verify: let nnU-Net check the result.

    Returns:
        A record of every case written, and the share of lesion voxels that lie outside the lung mask.

    Raises:
        BadInput: anything wrong with the input; nothing is written then.
    """
    settings = settings or MedSegSettings()
    patients = find_patients(source)
    test = [str(number) for number in test_patients]
    for number in test:
        if number not in patients:
            raise BadInput(f"--test-patients {number}: {Path(source) / FOLDERS[0]} has {', '.join(patients)} only")
    if set(test) == set(patients):
        raise BadInput("--test-patients names every patient; leave at least one for training")
    outside = lesions = 0
    for patient in patients:
        case, beyond = read_patient(source, patient)
        outside, lesions = outside + beyond, lesions + int((case.label > 1).sum())
    with staged_dataset(full_name, overwrite) as folder:
        records = for_each_patient(partial(_write_patient, str(source), settings, folder, test), patients, processes)
        finish_dataset(
            folder,
            records,
            LABELS,
            [CHANNEL],
            0,
            verify,
            name=full_name,
            description="COVID-19 CT volumes of MedSeg, 8-bit lung window per volume, not HU",
            reference="medicalsegmentation.com/covid19",
            license="see MedSeg's terms",
        )
        report_of_dataset(folder, records, LABELS, CHANNEL, processes)
    return records, outside / max(lesions, 1)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    p = argparse.ArgumentParser(
        prog="python -m nnunet_difflung.dataset_conversion.Dataset801_MedSegCOVID19",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("-i", required=True, metavar="FOLDER", help="folder that holds rp_im, rp_msk and rp_lung_msk")
    add_form_option(p, "that has lung")
    add_shape_options(p)
    p.add_argument(
        "--test-patients",
        type=int,
        nargs="*",
        default=[],
        metavar="N",
        help="patients for imagesTs/labelsTs instead of training, for example 8 9",
    )
    p.add_argument("--dataset-id", type=int, default=801, help="nnU-Net dataset id (default 801)")
    p.add_argument("--name", default="MedSegCOVID19", help="name behind the id (default MedSegCOVID19)")
    add_running_options(p)
    return p


@command
def main(arguments: list[str] | None = None) -> None:
    """Console entry point."""
    args = parser().parse_args(arguments)
    settings = MedSegSettings(args.form == "volumes", args.spacing, args.size, args.crop_lungs)
    full_name = dataset_name(args.dataset_id, args.name)
    records, outside = convert_medseg(args.i, settings, full_name, args.test_patients, args.np, args.overwrite)
    print(summary(records, LABELS))
    print(f"{100 * outside:.2f} % of the lesion voxels lie outside the lung mask and stay lesions")
    print(warn_of_old_preprocessing(full_name) or f"Next: nnUNetv2_plan_and_preprocess -d {args.dataset_id} -c 2d")


if __name__ == "__main__":
    main()
