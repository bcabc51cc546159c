"""Finds out what kind of archive a folder holds, and the patients in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nnunet_difflung.dataset_conversion.archive import slices, volumes
from nnunet_difflung.dataset_conversion.archive.grouping import Grouping, Named, grouped
from nnunet_difflung.dataset_conversion.archive.labelled import unread
from nnunet_difflung.dataset_conversion.archive.options import KINDS, ArchiveOptions
from nnunet_difflung.dataset_conversion.dicom import source as dicom_source
from nnunet_difflung.dataset_conversion.dicom.headers import is_packed_dicom, looks_like_dicom
from nnunet_difflung.dataset_conversion.files.image_files import SLICES, VOLUMES
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.dataset_conversion.sources import Source
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.walk import Walk, walk

_PACKED = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz")


def find_patients(folder: Path, options: ArchiveOptions, processes: int = 1) -> tuple[str, Sequence[Source], Grouping]:
    """The kind of an archive, its scans sorted by patient, and where the patients are known from.

    Raises:
        BadInput: the folder does not exist, holds no archive or several kinds of files, or an option does not fit.
    """
    if not folder.is_dir():
        raise BadInput(f"-i {folder} is not a folder; give the folder that holds the archive")
    kind = options.kind or kind_of(folder)
    if options.series and kind != "dicom":
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
        BadInput: the folder holds files of no kind or of several kinds, or cannot be read.
    """
    listed = walk(folder)
    paths_of: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for path in listed.files:
        kind = kind_by_name(path)
        if not kind and (looks_like_dicom(folder / path) or is_packed_dicom(folder / path)):
            kind = "dicom"
        if kind:
            paths_of[kind].append(path)
    kinds = [kind for kind, paths in paths_of.items() if paths]
    if len(kinds) == 1:
        return kinds[0]
    if not kinds:
        raise BadInput(
            f"{folder}: no images found among {len(listed.files)} files{_left_out(listed)}; expected DICOM files, "
            f"volumes ({', '.join(VOLUMES)}) or slices ({', '.join(SLICES)}); unpack the archive and give its folder "
            f"with -i{unread(folder)}"
        )
    found = " and ".join(
        f"{len(paths_of[kind])} files for --kind {kind} (such as {paths_of[kind][0]})" for kind in kinds
    )
    raise BadInput(f"{folder} holds {found}; choose one kind with --kind")


def kind_by_name(path: str) -> str:
    """``volumes`` or ``slices`` by the end of a file's name; ``""`` if it does not tell."""
    name = path.lower()
    return "volumes" if name.endswith(VOLUMES) else "slices" if name.endswith(SLICES) else ""


def _left_out(listed: Walk) -> str:
    """What was passed over in a folder, for the message that it holds no images."""
    kinds = (
        ("hidden", listed.hidden),
        ("broken links", listed.broken),
        ("packed", [path for path in listed.files if path.lower().endswith(_PACKED)]),
    )
    told = "; ".join(f"{len(paths)} {what}, such as {paths[0]}" for what, paths in kinds if paths)
    return f" ({told})" if told else ""


def notes_on_folder(folder: Path, kind: str) -> tuple[Note, ...]:
    """What was passed over in the folder of an archive."""
    listed = walk(folder)
    of_other_kind = [path for path in listed.files if (other := kind_by_name(path)) and other != kind]
    packed = [path for path in listed.files if path.lower().endswith(_PACKED) and not kind_by_name(path)]
    kinds = (
        ("hidden files and folders", listed.hidden),
        ("packed files", packed),
        ("empty files", [path for path in listed.files if (folder / path).stat().st_size == 0]),
        ("broken links", listed.broken),
        ("links to folders that are listed already or lie above", listed.repeated),
        ("files of another kind of archive", of_other_kind if kind != "dicom" else []),
    )
    return tuple(
        Note(f"left out {len(paths)} {what}, such as {paths[0]}", Kind.DROPPED, len(paths), what)
        for what, paths in kinds
        if paths
    )
