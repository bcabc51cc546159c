"""Finds out what kind of archive a folder holds, and the patients in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_difflung.dataset_conversion.archive import slices, volumes
from nnunet_difflung.dataset_conversion.archive.grouping import Grouping, Named, grouped
from nnunet_difflung.dataset_conversion.archive.image_files import SLICES, VOLUMES
from nnunet_difflung.dataset_conversion.archive.labelled import files_below
from nnunet_difflung.dataset_conversion.archive.options import KINDS, ArchiveOptions
from nnunet_difflung.dataset_conversion.dicom import source as dicom_source
from nnunet_difflung.dataset_conversion.dicom.headers import has_signature
from nnunet_difflung.dataset_conversion.sources import Source
from nnunet_difflung.errors import BadInput


def find_patients(folder: Path, options: ArchiveOptions, processes: int = 1) -> tuple[str, Sequence[Source], Grouping]:
    """The kind of an archive, its scans sorted by patient, and where the patients are known from.

    Raises:
        BadInput: the folder does not exist, holds no archive or several kinds of files, or an option does not fit.
    """
    if not folder.is_dir():
        raise BadInput(f"-i {folder} is not a folder; give the folder that holds the archive")
    kind = options.kind or kind_of(folder)
    if options.series is not None and kind != "dicom":
        raise BadInput(f"--series chooses a DICOM series, but {folder} holds {kind}; remove --series")
    if kind == "dicom" and (options.image or options.masks):
        raise BadInput(
            f"--image and --masks are for volumes and slices, but {folder} holds DICOM; remove these options"
        )
    if options.pixel_spacing is not None and kind != "slices":
        raise BadInput(
            f"--pixel-spacing is for slices, but {folder} holds {kind}, whose files give their spacing; "
            f"remove --pixel-spacing"
        )
    if kind == "dicom":
        sources = dicom_source.find_sources(folder, options.series, options.accept)
        scans = [Named(source.patient, told=source.patient if source.identified else None) for source in sources]
        grouping = grouped(scans, kind, options)
        named = [replace(source, patient=patient) for source, patient in zip(sources, grouping.patients, strict=True)]
        return kind, named, grouping
    module = slices if kind == "slices" else volumes
    return kind, *module.find_sources(folder, options, processes)


def kind_of(folder: Path) -> str:
    """Which of ``KINDS`` a folder holds, judged by its files.

    Raises:
        BadInput: the folder holds files of no kind or of several kinds.
    """
    paths_of: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for path in files_below(folder):
        name = path.lower()
        kind = (
            "volumes"
            if name.endswith(VOLUMES)
            else "slices"
            if name.endswith(SLICES)
            else "dicom"
            if has_signature(folder / path)
            else None
        )
        if kind:
            paths_of[kind].append(path)
    kinds = [kind for kind, paths in paths_of.items() if paths]
    if len(kinds) == 1:
        return kinds[0]
    if not kinds:
        raise BadInput(
            f"{folder}: no images found; expected DICOM files, volumes ({', '.join(VOLUMES)}) or slices "
            f"({', '.join(SLICES)}); unpack the archive and give its folder with -i"
        )
    listed = " and ".join(
        f"{len(paths_of[kind])} files for --kind {kind} (such as {paths_of[kind][0]})" for kind in kinds
    )
    raise BadInput(f"{folder} holds {listed}; choose one kind with --kind")
