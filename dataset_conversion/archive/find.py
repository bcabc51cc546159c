"""What kind of archive a folder is, and the patients in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_difflung.dataset_conversion.archive import slices, volumes
from nnunet_difflung.dataset_conversion.archive.image_files import SLICES, VOLUMES
from nnunet_difflung.dataset_conversion.archive.labelled import files_below
from nnunet_difflung.dataset_conversion.archive.options import KINDS, ArchiveOptions, patient_by
from nnunet_difflung.dataset_conversion.dicom import source as dicom_source
from nnunet_difflung.dataset_conversion.dicom.headers import has_signature
from nnunet_difflung.dataset_conversion.sources import Source
from nnunet_difflung.errors import BadInput


def find_patients(folder: Path, options: ArchiveOptions, processes: int = 1) -> tuple[str, Sequence[Source]]:
    """The archive's kind and its patients, sorted by name (several sources of one patient follow each other).

    Raises:
        BadInput: no such folder, nothing or several kinds in it, options that do not fit.
    """
    if not folder.is_dir():
        raise BadInput(f"-i {folder} is not a folder; name the one that holds the archive")
    kind = options.kind or kind_of(folder)
    if options.series is not None and kind != "dicom":
        raise BadInput(f"--series chooses a DICOM series, and {folder} holds {kind}; leave it out")
    if kind == "dicom" and (options.image or options.masks):
        raise BadInput(f"--image and --masks are for volumes and slices, and {folder} holds DICOM; leave them out")
    if options.pixel_spacing is not None and kind != "slices":
        raise BadInput(f"--pixel-spacing is for slices; {folder} holds {kind}, which know their own; leave it out")
    if kind == "dicom":
        sources = dicom_source.find_sources(folder, options.series)
        if options.patient_pattern is not None:  # the other kinds use it on their files
            sources = [replace(s, patient=patient_by(options.patient_pattern, s.patient)) for s in sources]
        return kind, sources
    module = slices if kind == "slices" else volumes
    return kind, module.find_sources(folder, options, processes)


def kind_of(folder: Path) -> str:
    """Which of ``KINDS`` a folder is, by the files in it.

    Raises:
        BadInput: none, or more than one.
    """
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
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
            found[kind].append(path)
    kinds = [kind for kind, paths in found.items() if paths]
    if len(kinds) == 1:
        return kinds[0]
    if not kinds:
        raise BadInput(
            f"{folder}: no image found; expected DICOM files, volumes ({', '.join(VOLUMES)}) or slices "
            f"({', '.join(SLICES)}); unpack the archive and name its folder with -i"
        )
    listed = " and ".join(f"{len(found[kind])} files for --kind {kind} (such as {found[kind][0]})" for kind in kinds)
    raise BadInput(f"{folder} holds {listed}; say which with --kind")
