"""What the converters of public datasets share: options, a source for NIfTI files, and the conversion."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_difflung.dataset_conversion.archive.grouping import Grouping
from nnunet_difflung.dataset_conversion.files.volume_files import read_volume
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.dataset_conversion.output.changes import changes_text
from nnunet_difflung.dataset_conversion.output.writer import dataset_name, summary, what_next
from nnunet_difflung.dataset_conversion.pipeline.archive import (
    MANIFEST,
    check_readable,
    convert,
    listed_archive,
    plan_patients,
    without_faulty,
)
from nnunet_difflung.dataset_conversion.pipeline.found import report_conversion, report_patients
from nnunet_difflung.dataset_conversion.pipeline.leaving_out import add_leaving_out_options, left_out_text
from nnunet_difflung.dataset_conversion.pipeline.mapping import parse_mapping
from nnunet_difflung.dataset_conversion.pipeline.options import (
    ConvertOptions,
    add_form_option,
    add_running_options,
    add_shape_options,
    add_test_options,
    check_test_options,
)
from nnunet_difflung.dataset_conversion.sources import Listing, Scan, Source
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import raw_folder
from nnunet_difflung.runtime.arguments import CommandParser
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.files import openable
from nnunet_difflung.runtime.messages import say, stage
from nnunet_difflung.runtime.wording import without_folder


@dataclass(frozen=True)
class PublicSet:
    """A public dataset.

    Attributes:
        module: name of the converter's module.
        dataset_id: default id.
        name: default name after the id.
        mapping: structures → labels, as in a mapping file.
        find: function that returns the patients in the folder of an archive.
        crop: whether the converter has the option ``--crop-lungs``.
        patients: where the patients are known from, for the output.
        warning: if the set does not say who its patients are: what stands for them.
        about: entries of ``dataset.json``: ``description``, ``reference``, ``license``; missing entries get defaults.
    """

    module: str
    dataset_id: int
    name: str
    mapping: dict
    find: Callable[[Path], Sequence[Source]]
    crop: bool = True
    patients: str = "the numbers of the published files"
    warning: str = ""
    about: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MaskOf:
    """A structure: the voxels of a file that have one of ``values``, or any value above 0 if none is given."""

    name: str
    path: Path
    values: tuple[int, ...] = ()


@dataclass(frozen=True)
class FileSource:
    """A patient whose image and masks are NIfTI files; see ``sources.Source``.

    Attributes:
        patient: name of the patient.
        folder: root folder of the archive.
        image: path of the image.
        masks: structures of the patient.
        windowed: see ``Scan``.
        notes: see ``Scan``.
    """

    patient: str
    folder: Path
    image: Path
    masks: tuple[MaskOf, ...]
    windowed: bool | None = None
    notes: tuple[Note, ...] = ()

    def listing(self) -> Listing:
        """What the headers tell; the structures are those that the dataset is documented to have."""
        import SimpleITK as sitk

        reader, problems, size, spacing = sitk.ImageFileReader(), [], (0, 0, 0), (0.0, 0.0, 0.0)
        files = tuple(
            dict.fromkeys(
                p.relative_to(self.folder).as_posix() for p in (self.image, *(mask.path for mask in self.masks))
            )
        )
        for path in files:
            try:
                reader.SetFileName(openable(self.folder / path))
                reader.ReadImageInformation()
                if path == files[0]:
                    size, spacing = reader.GetSize()[:3], reader.GetSpacing()[:3]
            except RuntimeError:
                problems.append(f"{self.folder / path} cannot be read; expected a NIfTI file: download it again")
        names = tuple(sorted({mask.name for mask in self.masks}))
        return Listing(self.patient, files, size, spacing, "CT", (0.0, 0.0), names, tuple(problems))

    def load(self) -> Scan:
        """Image and masks, each on the grid of its file."""
        import SimpleITK as sitk

        from nnunet_difflung.dataset_conversion.imaging.geometry import image_like

        structures, notes = {}, list(self.notes)
        for path in dict.fromkeys(mask.path for mask in self.masks):
            image = read_volume(path)
            stored = sitk.GetArrayViewFromImage(image)
            values = np.rint(stored)
            notes += _odd_values(path, stored, values, [mask for mask in self.masks if mask.path == path])
            for mask in (mask for mask in self.masks if mask.path == path):
                inside = np.isin(values, mask.values) if mask.values else values > 0
                structures[mask.name] = image_like(inside.astype(np.uint8), image)
        return Scan(read_volume(self.image), structures, "CT", None, self.windowed, tuple(notes))


def _odd_values(path: Path, stored: np.ndarray, values: np.ndarray, masks: Sequence[MaskOf]) -> list[Note]:
    """Notes on values of a mask that are not whole numbers, and on those that no structure has.

    Args:
        path: of the mask.
        stored: (z, y, x) values in the file.
        values: (z, y, x) the same, rounded.
        masks: the structures of this file.
    """
    notes = []
    if rounded := int((stored != values).sum()):
        text = f"{path.name}: {rounded} voxels have values that are not whole numbers; they were rounded"
        notes.append(Note(text, Kind.REINTERPRETED, rounded, "voxels of masks rounded to whole numbers"))
    named = {value for mask in masks for value in mask.values}
    other = np.unique(values[values > 0]) if all(mask.values for mask in masks) else np.array([])
    for value in (float(value) for value in other if value not in named):
        count = int((values == value).sum())
        what = f"voxels of the value {value:g}, which the dataset is not documented to have"
        notes.append(Note(f"{path.name}: {count} {what}", Kind.DROPPED, count, what))
    return notes


def below(folder: Path, *choices: str) -> Path:
    """The first of several subfolders that exists.

    Raises:
        BadInput: none of them exists.
    """
    for choice in choices:
        if (folder / choice).is_dir():
            return folder / choice
    raise BadInput(
        f"{folder / choices[0]} is missing; give the folder with the unpacked downloads with -i, which has to hold "
        f"{choices[0]}"
    )


def nifti(folder: Path, stem: str) -> Path | None:
    """The path of ``stem.nii.gz`` or ``stem.nii`` in a folder (mirrors differ); None if neither exists."""
    return next((path for path in (folder / f"{stem}.nii.gz", folder / f"{stem}.nii") if path.is_file()), None)


def parser(public: PublicSet, description: str) -> argparse.ArgumentParser:
    """Options of the converter of a public dataset."""
    p = CommandParser(
        prog=f"python -m nnunet_difflung.dataset_conversion.{public.module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("-i", required=True, type=Path, metavar="FOLDER", help="folder with the unpacked downloads")
    add_form_option(p, "that has a label")
    add_shape_options(p, public.crop)
    add_test_options(p)
    p.add_argument(
        "--dataset-id", type=int, default=public.dataset_id, help="nnU-Net dataset id (default: %(default)s)"
    )
    p.add_argument("--name", default=public.name, help="name of the dataset after its id (default: %(default)s)")
    add_running_options(p)
    add_leaving_out_options(p)
    p.add_argument("--dry-run", action="store_true", help="show patients and labels, but write nothing")
    return p


def run(public: PublicSet, args: argparse.Namespace, arguments: Sequence[str] | None, **further: Any) -> int:
    """Converts a public dataset.

    Args:
        public: the dataset.
        args: options as parsed by ``parser``.
        arguments: that were parsed; None for those of the command line.
        **further: fields of ``ConvertOptions`` that ``parser`` has no options for.

    Raises:
        BadInput: an option does not fit, or the archive cannot be converted.
    """
    check_test_options(args)
    if not args.i.is_dir():
        raise BadInput(f"-i {args.i} is not a folder; give the folder with the unpacked downloads")
    full_name, mapping = dataset_name(args.dataset_id, args.name), parse_mapping(public.mapping)
    options = ConvertOptions(
        args.form, args.form == "slices", args.spacing, args.size, getattr(args, "crop_lungs", None), **further
    )
    sources = public.find(args.i)
    names = tuple(source.patient for source in sources)
    grouping = Grouping(names, names, public.patients, warning=public.warning)
    with stage("reading the archive"):
        archive = listed_archive(args.i, public.module, sources, grouping, args.np, args.exclude)
    if args.skip_faulty:
        archive = without_faulty(archive)
    check_readable(archive)
    patients = plan_patients(archive, options, False, args.test, args.test_share, args.seed)
    report_patients(full_name, patients, args.dry_run)
    say(f"{full_name}: {len(patients)} {grouping.unit}; " + ", ".join(f"{n} = {v}" for n, v in mapping.labels.items()))
    say(archive.counted(), log=False)
    if args.dry_run:
        for patient in patients:
            say(f"  {patient.name} → {patient.patient}{' (test)' if patient.test else ''}", log=False)
        say("Dry run: nothing was written.")
        return 0
    words = [without_folder(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    with stage("converting", of=f"{len(patients)} {grouping.unit}"):
        records = convert(
            archive,
            mapping,
            options,
            patients,
            full_name,
            args.np,
            args.overwrite,
            args.seed,
            command=[public.module, *words],
            about=public.about,
            skip_faulty=args.skip_faulty,
        )
    report_conversion(raw_folder(full_name), archive, patients)
    say(archive.counted(), log=False)
    say(summary(records, mapping.labels, grouping.unit.removesuffix("s")))
    say(changes_text(raw_folder(full_name), grouping.unit), log=False)
    say(f"Check $nnUNet_raw/{full_name}/conversion_report.html (or .png) before you continue.")
    say(what_next(full_name, args.dataset_id))
    if left_out := left_out_text(raw_folder(full_name) / MANIFEST):
        say(left_out.rstrip(), log=False)
    return 0


def converter(public: PublicSet, description: str) -> Callable[..., None]:
    """``main`` for the converter of a public dataset that has no further options."""

    @command
    def main(arguments: Sequence[str] | None = None) -> int:
        """Console entry point."""
        return run(public, parser(public, description).parse_args(arguments), arguments)

    return main
