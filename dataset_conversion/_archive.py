"""What kind of archive a folder is, and the patients in it."""
from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.dataset_conversion._file_facts import SLICES, VOLUMES, Facts, facts
from nnunet_difflung.dataset_conversion.nnunet_format import in_parallel
from nnunet_difflung.dataset_conversion.sources import Source

KINDS = ("dicom", "volumes", "slices")


@dataclass(frozen=True)
class ArchiveOptions:
    """How to read an archive.

    Attributes:
        kind: one of ``KINDS``; None finds it by content.
        image: regular expression for the paths of images, searched below the archive's folder.
        masks: the same for label maps. With one of the two given the other is the rest; files that neither
            expression matches are left out where both are given.
        patient_pattern: regular expression for a whole name; its first group is the patient.
        series: for DICOM, folder or number of slices of the series to take.
        pixel_spacing: mm; for slices whose files hold none.
    """

    kind: str | None = None
    image: str | None = None
    masks: str | None = None
    patient_pattern: str | None = None
    series: str | None = None
    pixel_spacing: float | None = None


def find_patients(folder: Path, options: ArchiveOptions, processes: int = 1) -> tuple[str, list[Source]]:
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
        return kind, _dicom(folder, options)
    from nnunet_difflung.dataset_conversion import _slice_source, _volume_source
    module = _slice_source if kind == "slices" else _volume_source
    return kind, module.find_sources(folder, options, processes)


def _dicom(folder: Path, options: ArchiveOptions) -> list[Source]:
    from nnunet_difflung.dataset_conversion import _dicom_source
    return _dicom_source.find_sources(folder, options.series)


def kind_of(folder: Path) -> str:
    """Which of ``KINDS`` a folder is, by the files in it.

    Raises:
        BadInput: none, or more than one.
    """
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for path in files_below(folder):
        name = path.lower()
        kind = ("volumes" if name.endswith(VOLUMES) else "slices" if name.endswith(SLICES) else
                "dicom" if is_dicom(folder / path) else None)
        if kind:
            found[kind].append(path)
    kinds = [kind for kind, paths in found.items() if paths]
    if len(kinds) == 1:
        return kinds[0]
    if not kinds:
        raise BadInput(f"{folder}: no image found; expected DICOM files, volumes ({', '.join(VOLUMES)}) or slices "
                       f"({', '.join(SLICES)}); unpack the archive and name its folder with -i")
    listed = " and ".join(f"{len(found[kind])} files for --kind {kind} (such as {found[kind][0]})" for kind in kinds)
    raise BadInput(f"{folder} holds {listed}; say which with --kind")


def is_dicom(path: Path) -> bool:
    """Whether a file has DICOM's preamble."""
    try:
        with open(path, "rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def files_below(folder: Path, endings: tuple[str, ...] = ()) -> list[str]:
    """Paths below a folder with one of the endings, sorted, with ``/``; hidden ones are left out."""
    found = []
    for at, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        below = Path(at).relative_to(folder)
        found += [(below / name).as_posix() for name in names
                  if not name.startswith(".") and name.lower().endswith(endings or "")]
    return sorted(found)


def look_at(folder: Path, paths: list[str], processes: int) -> dict[str, Facts]:
    """Reads every file once, several at a time."""
    found = in_parallel(facts, [folder / path for path in paths], processes, "files")
    return dict(zip(paths, found, strict=True))


def given_roles(paths: list[str], options: ArchiveOptions) -> dict[str, bool] | None:
    """Path → whether it is a label map, where --image or --masks say so; None where neither is given.

    Raises:
        BadInput: no regular expression, one that matches nothing, or a file that both match.
    """
    hits = {}
    for option, pattern in (("--image", options.image), ("--masks", options.masks)):
        if pattern is not None:
            expression = compiled(option, pattern)
            hits[option] = {path for path in paths if expression.search(path)}
            if not hits[option]:
                raise BadInput(f"{option} {pattern!r} matches none of the {len(paths)} files, such as {paths[0]}")
    if not hits:
        return None
    if len(hits) == 1:
        option, paths_hit = next(iter(hits.items()))
        return {path: (path in paths_hit) == (option == "--masks") for path in paths}
    both = sorted(hits["--image"] & hits["--masks"])
    if both:
        raise BadInput(f"{both[0]} is matched by --image and by --masks; make the expressions exclude each other")
    return {path: path in hits["--masks"] for path in paths if path in hits["--image"] | hits["--masks"]}


def compiled(option: str, pattern: str) -> re.Pattern:
    """A regular expression given by the user.

    Raises:
        BadInput: it is none.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise BadInput(f"{option} {pattern!r} is not a regular expression ({error}); correct it") from error


def structure_names(values: dict[str, set[int]], colours: set[str]) -> dict[str, dict[int, str]]:
    """What each value of each kind of label map is called.

    A label map that holds one value in the whole archive is the structure itself. With more it holds ``label 1``,
    ``label 2``, …, or its colours, behind the label map's own name where there are several kinds of label maps.

    Args:
        values: label map → values above 0 in the whole archive.
        colours: those whose values are colours.
    """
    names = {}
    for key, found in values.items():
        before = f"{key} " if len(values) > 1 else ""
        names[key] = {v: f"{before}#{v:06x}" if key in colours else f"{before}label {v}" for v in sorted(found)}
        if len(found) == 1 and key not in colours:
            names[key] = {next(iter(found)): key}
    return names
