"""What the converters of public sets share: options, a source for NIfTI files, and the way into nnU-Net's format."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_difflung.command_line import BadInput, without_folder
from nnunet_difflung.dataset_conversion._convert_archive import Archive, check_readable, convert, plan_patients
from nnunet_difflung.dataset_conversion._file_facts import read_volume
from nnunet_difflung.dataset_conversion.convert_options import ConvertOptions
from nnunet_difflung.dataset_conversion.mapping import parse_mapping
from nnunet_difflung.dataset_conversion.nnunet_format import (
    dataset_name,
    in_parallel,
    summary,
    warn_of_old_preprocessing,
)
from nnunet_difflung.dataset_conversion.sources import Listing, Scan, Source


@dataclass(frozen=True)
class PublicSet:
    """A public data set.

    Attributes:
        module: name of its converter's module.
        dataset_id: default id.
        name: default name behind the id.
        mapping: structures → labels, as in a mapping file.
        find: archive's folder → its patients.
        crop: whether ``--crop-lungs`` makes sense (the set has lungs).
    """

    module: str
    dataset_id: int
    name: str
    mapping: dict
    find: Callable[[Path], list[Source]]
    crop: bool = True


@dataclass(frozen=True)
class MaskOf:
    """A structure: the voxels of a file that have one of some values (none given: all above 0)."""

    name: str
    path: Path
    values: tuple[int, ...] = ()


@dataclass(frozen=True)
class FileSource:
    """A patient of NIfTI files; see ``sources.Source``.

    Attributes:
        patient: name.
        folder: the archive's root.
        image: file.
        masks: what is drawn.
        windowed: as of ``Scan``.
        notes: as of ``Scan``.
    """

    patient: str
    folder: Path
    image: Path
    masks: tuple[MaskOf, ...]
    windowed: bool | None = None
    notes: tuple[str, ...] = ()

    def listing(self) -> Listing:
        """From headers; the structures are those that the set promises."""
        reader, problems, size, spacing = sitk.ImageFileReader(), [], (0, 0, 0), (0.0, 0.0, 0.0)
        files = tuple(dict.fromkeys(p.relative_to(self.folder).as_posix() for p in (
            self.image, *(mask.path for mask in self.masks))))
        for path in files:
            try:
                reader.SetFileName(str(self.folder / path))
                reader.ReadImageInformation()
                if path == files[0]:
                    size, spacing = reader.GetSize()[:3], reader.GetSpacing()[:3]
            except RuntimeError:
                problems.append(f"{self.folder / path} cannot be read; expected a NIfTI file; download it again")
        names = tuple(sorted({mask.name for mask in self.masks}))
        return Listing(self.patient, files, size, spacing, "CT", (0.0, 0.0), names, tuple(problems))

    def load(self) -> Scan:
        """Image and masks, each in its own place."""
        structures = {}
        for mask in self.masks:
            image = read_volume(mask.path)
            values = np.rint(sitk.GetArrayViewFromImage(image))
            found = np.isin(values, mask.values) if mask.values else values > 0
            structures[mask.name] = sitk.GetImageFromArray(found.astype(np.uint8))
            structures[mask.name].CopyInformation(image)
        return Scan(read_volume(self.image), structures, "CT", None, self.windowed, self.notes)


def below(folder: Path, *choices: str) -> Path:
    """The first of some folders that is there.

    Raises:
        BadInput: none of them.
    """
    for choice in choices:
        if (folder / choice).is_dir():
            return folder / choice
    raise BadInput(f"{folder / choices[0]} is missing; -i names the folder in which the downloads were unpacked; it "
                   f"has to hold {choices[0]}")


def nifti(folder: Path, stem: str) -> Path | None:
    """``stem.nii.gz`` or ``stem.nii`` in a folder, whatever the archive's mirror has left of it."""
    return next((p for p in (folder / f"{stem}.nii.gz", folder / f"{stem}.nii") if p.is_file()), None)


def parser(public: PublicSet, description: str) -> argparse.ArgumentParser:
    """Options of a public set's converter."""
    p = argparse.ArgumentParser(prog=f"python -m nnunet_difflung.dataset_conversion.{public.module}",
                                description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-i", required=True, type=Path, metavar="FOLDER", help="folder with the unpacked downloads")
    p.add_argument("--as", dest="form", choices=("slices", "volumes"), default="slices",
                   help="a case for each slice with a label, as in the Diff-Lung paper (default), or for each volume")
    p.add_argument("--spacing", type=float, metavar="MM", help="resample in plane to square pixels of this size")
    p.add_argument("--size", type=int, metavar="PIXELS", help="resample in plane so that the longer side has this many")
    if public.crop:
        p.add_argument("--crop-lungs", type=float, nargs="?", const=10.0, metavar="MM", help="cut each patient to the "
                       "lungs' box and this margin (10 mm if no number follows)")
    p.add_argument("--test", nargs="+", default=[], metavar="PATIENT", help="patients for imagesTs/labelsTs")
    p.add_argument("--test-share", type=float, metavar="SHARE", help="instead of --test: a share of the patients")
    p.add_argument("--dataset-id", type=int, default=public.dataset_id, help="nnU-Net dataset id (default %(default)s)")
    p.add_argument("--name", default=public.name, help="name behind the id (default %(default)s)")
    p.add_argument("-np", type=int, default=2, help="patients converted at a time (default 2); same result")
    p.add_argument("--overwrite", action="store_true", help="replace the dataset if it exists")
    p.add_argument("--dry-run", action="store_true", help="show patients and labels, write nothing")
    p.add_argument("--seed", type=int, default=0, help="of folds and --test-share (default 0)")
    return p


def run(public: PublicSet, description: str, arguments: Sequence[str] | None) -> int:
    """Converts a public set."""
    o = parser(public, description).parse_args(arguments)
    if o.test_share is not None and not 0 < o.test_share < 1:
        raise BadInput(f"--test-share {o.test_share:g}: expected a share between 0 and 1")
    if not o.i.is_dir():
        raise BadInput(f"-i {o.i} is not a folder; name the one with the unpacked downloads")
    full_name, mapping = dataset_name(o.dataset_id, o.name), parse_mapping(public.mapping)
    options = ConvertOptions(o.form, o.form == "slices", o.spacing, o.size, getattr(o, "crop_lungs", None))
    sources = tuple(public.find(o.i))
    archive = Archive(o.i, public.module, sources, tuple(in_parallel(_listing, sources, o.np, "patients")))
    check_readable(archive)
    patients = plan_patients(archive, options, False, o.test, o.test_share, o.seed)
    print(f"{full_name}: {len(patients)} patients; " + ", ".join(f"{n} = {v}" for n, v in mapping.labels.items()))
    if o.dry_run:
        print("\n".join(f"  {patient.name} → {patient.patient}{' (test)' * patient.test}" for patient in patients))
        print("Dry run: nothing was written.")
        return 0
    words = [without_folder(word) for word in (sys.argv[1:] if arguments is None else arguments)]
    records = convert(archive, mapping, options, patients, full_name, o.np, o.overwrite, o.seed,
                      said=[public.module, *words])
    print(summary(records, mapping.labels))
    print(f"Look at $nnUNet_raw/{full_name}/conversion_report.png before you go on.")
    print(warn_of_old_preprocessing(full_name) or f"Next: nnUNetv2_plan_and_preprocess -d {o.dataset_id} -c 2d")
    return 0


def _listing(source: Source) -> Listing:
    return source.listing()
