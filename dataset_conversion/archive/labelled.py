"""Finds the images of a folder and their label maps, and names the structures in the label maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_difflung.dataset_conversion.accept import Accept, accepted, remedy
from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions
from nnunet_difflung.dataset_conversion.archive.pairing import Pair, pair_files
from nnunet_difflung.dataset_conversion.archive.roles import given_roles, roles_by_content
from nnunet_difflung.dataset_conversion.files.image_files import Facts, facts
from nnunet_difflung.dataset_conversion.files.nifti_files import place
from nnunet_difflung.dataset_conversion.files.segment_names import NamesBeside, Segment
from nnunet_difflung.dataset_conversion.files.spelling import composed
from nnunet_difflung.dataset_conversion.notes import Kind, Note
from nnunet_difflung.dataset_conversion.sources import Listing, Scan
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.parallel import in_parallel
from nnunet_difflung.runtime.walk import walk

UNREAD = (".jpg", ".jpeg", ".gif", ".webp")
NEGATIVE = "value "  # begins the names of negative values, which are marks and no structures


@dataclass(frozen=True)
class MaskFile:
    """A label map, and the name of the structure that each value but 0 stands for.

    Attributes:
        path: relative to the archive's folder.
        segments: the structures of the file, including those of values that do not occur in it.
        facts: about the file.
        rounded: whether values that are nearly whole numbers are to be rounded.
        named_by: what gives the names of its structures, if it is no header and not the name of the file.
    """

    path: str
    segments: tuple[Segment, ...]
    facts: Facts
    rounded: bool = False
    named_by: str = ""

    def drawn(self) -> tuple[Segment, ...]:
        """The structures that occur in this file."""
        return tuple(segment for segment in self.segments if self.facts.holds(segment.value, segment.layer))

    def structures(self) -> tuple[str, ...]:
        """Names of the structures in this file."""
        return tuple(dict.fromkeys(segment.name for segment in self.drawn()))

    def named(self) -> tuple[tuple[str, int, int], ...]:
        """Name, value and layer of each structure in this file."""
        return tuple((segment.name, segment.value, segment.layer) for segment in self.drawn())

    def problem(self, folder: Path) -> str:
        """One line that says why the file cannot be used as a label map, or ""."""
        about, path = self.facts, folder / self.path
        if about.problem:
            return about.problem
        if about.lossy:
            return (
                f"{path}: a mask that was saved with JPEG compression, which changes values ({self._values()}); "
                f"expected labels: export the masks again as PNG, from the program that drew them"
            )
        if about.off is not None and not self.rounded:
            return (
                f"{path}: the value {about.off:g} is not a whole number; expected labels: export the label map again "
                f"(resampled by nearest neighbour), {remedy(Accept.ROUNDED_LABELS)}"
            )
        if about.values is not None:
            return ""
        if about.mixed:
            return (
                f"{path}: values between whole numbers, which interpolation leaves at the edges of structures; "
                f"expected labels: export the label map again, resampled by nearest neighbour"
            )
        if about.low >= 0 and about.high <= 1:
            return (
                f"{path}: values between 0 and 1, which are probabilities and not labels; expected whole numbers: save "
                f"the voxels above a threshold such as 0.5 as 1, all others as 0"
            )
        return (
            f"{path}: values from {about.low:g} to {about.high:g}; expected a few whole numbers as labels; if this is "
            f"an image, tell images from label maps with --image and --masks"
        )

    def _values(self) -> str:
        values = self.facts.values
        if values is None or len(values) > 8:
            return f"from {self.facts.low:g} to {self.facts.high:g}"
        return ", ".join(map(str, values))

    def notes(self) -> list[Note]:
        """What was repaired, rounded, merged or named by another file."""
        name, notes = Path(self.path).name, list(self.facts.notes)
        if self.facts.off is not None:
            text = f"values of {name} such as {self.facts.off:g} were rounded"
            notes.append(Note(text, Kind.REINTERPRETED, what="label maps whose values were rounded to whole numbers"))
        for structure, number in Counter(segment.name for segment in self.drawn()).items():
            if number > 1:
                what = "structures of the same name in one file"
                text = f"{structure}: {number} structures of this name in {name} are merged"
                notes.append(Note(text, Kind.MERGED, number, what))
        if self.named_by:
            what = "label maps whose structures are named by a file beside them or by a palette"
            notes.append(Note(f"{self.named_by} names the structures of {name}", what=what))
        return notes


@dataclass(frozen=True)
class LabelledImage:
    """An image with its label maps.

    Attributes:
        name: see ``Pair``.
        path: relative to the archive's folder.
        masks: its label maps; empty if there are none.
        facts: about the image file.
        notes: how it was found out that this is the image and these are its label maps.
    """

    name: str
    path: str
    masks: tuple[MaskFile, ...]
    facts: Facts
    notes: tuple[Note, ...] = ()

    def twice(self, folder: Path) -> list[str]:
        """A problem for each structure that several label maps of the image hold."""
        holders: dict[str, list[str]] = {}
        for mask in self.masks:
            for name in mask.structures():
                holders.setdefault(name, []).append(mask.path)
        return [
            f"{folder / paths[0]}: structure {name!r} is also in {paths[1]}; expected one file with it for each image: "
            f"move the other file out of the archive, or leave it out with --image and --masks"
            for name, paths in holders.items()
            if len(paths) > 1
        ]


@dataclass(frozen=True)
class Orphan:
    """A label map whose image is missing, as a source that has nothing but a problem; see ``sources.Source``."""

    patient: str
    folder: Path
    path: str
    facts: Facts

    def listing(self) -> Listing:
        """The label map with its problem."""
        problem = self.facts.problem or (
            f"{self.folder / self.path}: no image belongs to this label map; expected an image of this name, or a "
            f"single image in its folder: add the image, rename the label map, or move it out of the archive"
        )
        return Listing(
            self.patient, (self.path,), self.facts.size, self.facts.spacing, "", (0.0, 0.0), (), problems=(problem,)
        )

    def load(self) -> Scan:
        """Raises BadInput: there is no image to load."""
        raise BadInput(self.listing().problems[0])


def labelled_images(
    folder: Path,
    endings: tuple[str, ...],
    options: ArchiveOptions,
    processes: int,
    what: str,
    roles_by_name: Callable[[list[str]], dict[str, bool] | None] | None = None,
) -> tuple[list[LabelledImage], list[Orphan]]:
    """The images below a folder, sorted by name, and label maps without an image; every file is read once.

    Args:
        folder: of the archive.
        endings: file extensions to look for.
        options: how to read the archive.
        processes: number of files read at a time.
        what: what such a file is called in messages.
        roles_by_name: decides for every path whether it is a label map, or returns None if the names do not tell.
            Used if neither --image nor --masks is given, before the content of the files decides.

    Raises:
        BadInput: there is no image, or an option matches nothing.
    """
    paths = files_below(folder, endings)
    if not paths:
        raise BadInput(f"{folder}: no {what} found ({', '.join(endings)}); unpack the archive or correct --kind")
    _check_spellings(folder, paths)
    roles, guessed = given_roles(paths, options), set[str]()
    used = paths if roles is None else list(roles)
    found = in_parallel(facts, [folder / path for path in used], processes, "files")
    facts_of = {path: _named_fully(about, folder, path) for path, about in zip(used, found, strict=True)}
    if roles is None:
        roles = roles_by_name(paths) if roles_by_name else None
    if roles is None:
        roles, guessed = roles_by_content(facts_of)
    pairs, orphans = _paired(folder, roles)
    rounded = accepted(Accept.ROUNDED_LABELS, options.accept)
    masks = _mask_files([mask for pair in pairs for mask in pair.masks], facts_of, NamesBeside(folder))
    masks = {path: replace(mask, rounded=rounded) for path, mask in masks.items()}
    images = [
        LabelledImage(
            pair.name,
            pair.image,
            tuple(masks[path] for _, path in pair.masks),
            facts_of[pair.image],
            _pair_notes(pair, guessed),
        )
        for pair in pairs
    ]
    return images, [Orphan(composed(path), folder, path, facts_of[path]) for path in orphans]


def files_below(folder: Path, endings: tuple[str, ...] = ()) -> list[str]:
    """Sorted paths of the files below a folder that have one of the endings; hidden files are left out."""
    return [path for path in walk(folder).files if path.lower().endswith(endings or "")]


def _named_fully(about: Facts, folder: Path, path: str) -> Facts:
    """Facts whose notes name the file by its path in the archive, which ``--anonymous`` takes out."""
    notes = tuple(replace(note, text=note.text.replace(place(folder / path), path)) for note in about.notes)
    return replace(about, notes=notes)


def unread(folder: Path) -> str:
    """What to say about pictures in formats that are not read; ``""`` if the folder has none."""
    paths = files_below(folder, UNREAD)
    if not paths:
        return ""
    return (
        f"; {len(paths)} files such as {paths[0]} are JPEG, GIF or WebP and are not read: save images as PNG, and "
        f"export masks as PNG from the program that drew them, since JPEG changes labels"
    )


def _check_spellings(folder: Path, paths: list[str]) -> None:
    """Raises BadInput if two files have the same name but for the way in which Unicode spells it."""
    spelled: dict[str, str] = {}
    for path in paths:
        first = spelled.setdefault(composed(path), path)
        if first != path:
            raise BadInput(
                f"{folder / path}: two files have this name, spelled in two ways in Unicode; expected one: remove the "
                f"one that is a copy"
            )


def _paired(folder: Path, roles: dict[str, bool]) -> tuple[list[Pair], list[str]]:
    """Images with their label maps, and label maps that belong to no image.

    Raises:
        BadInput: there is no image.
    """
    images = [path for path, is_mask in roles.items() if not is_mask]
    masks = [path for path, is_mask in roles.items() if is_mask]
    if not images:
        raise BadInput(
            f"{folder}: all {len(masks)} files look like label maps, such as {masks[0]}; expected an image "
            f"for each patient: say which files are images with --image REGEX{unread(folder)}"
        )
    return pair_files(images, masks, folder.resolve().name)


def _pair_notes(pair: Pair, guessed: set[str]) -> tuple[Note, ...]:
    notes = []
    if pair.image in guessed:
        what = "files taken for images like the others in their folder, since their content does not tell"
        notes.append(Note(f"{pair.image} is taken for an image", Kind.GUESSED, what=what))
    if pair.guessed:
        listed = ", ".join(path for _, path in pair.masks)
        what = "images whose label maps were found by a number that both names share"
        notes.append(Note(f"{pair.image} and {listed} belong together", Kind.GUESSED, what=what))
    return tuple(notes)


# ---- names of structures ----


def _mask_files(masks: list[tuple[str, str]], facts_of: dict[str, Facts], beside: NamesBeside) -> dict[str, MaskFile]:
    """Path → label map with the names of its structures.

    The header names them or, where it does not, a file beside the label map, its name if it has a single value in the
    whole archive, its palette if palettes differ, or its values.

    Args:
        masks: name of a label map (the same for every image) and path, for each file.
        facts_of: path → facts.
        beside: reads files beside label maps.
    """
    paths_of: dict[str, list[str]] = {}
    for key, path in masks:
        paths_of.setdefault(key, []).append(path)
    alone = len(paths_of) == 1
    files = {}
    for key, paths in paths_of.items():
        by_value = _names_of_values(key, [facts_of[p] for p in paths if not facts_of[p].segments], alone)
        by_colour = _palettes_differ([facts_of[p] for p in paths])
        for path in paths:
            about, named_by = facts_of[path], ""
            names = by_value
            if by_colour and about.palette:
                names = {v: _named("" if alone else key, f"#{colour:06x}") for v, colour in about.palette if colour}
                named_by = "the colour in the palette"
            elif not about.segments and not about.colour:
                told, file = beside.of(path, alone)
                names, named_by = {**names, **told}, file
            files[path] = MaskFile(path, _segments(about, names, key, alone), about, named_by=named_by)
    return files


def _segments(about: Facts, names: Mapping[int, str], key: str, alone: bool) -> tuple[Segment, ...]:
    """The structures of a label map; values that its header does not name are called by their number."""
    if not about.segments:
        return tuple(Segment(name, value) for value, name in names.items())
    named = {(segment.layer, segment.value) for segment in about.segments}
    layers = about.layers or (about.values or (),)
    rest = [(v, layer) for layer, values in enumerate(layers) for v in values if v and (layer, v) not in named]
    return (*about.segments, *(Segment(_numbered("" if alone else key, v), v, layer) for v, layer in rest))


def _names_of_values(key: str, facts: list[Facts], alone: bool) -> dict[int, str]:
    """Names of the values of label maps that have the same name and nothing that names their structures.

    A label map with a single value above 0 in the whole archive is a structure, and gives it its name. Several values
    are called ``label 1``, ``label 2``, …, or by their colours, preceded by the name of the label map if the archive
    has several of them. Negative values are marks and are called ``value -1``.

    Args:
        key: name of the label maps.
        facts: about each of them.
        alone: whether all label maps of the archive have this name.
    """
    values = sorted({value for about in facts for value in about.values or () if value})
    prefix = "" if alone else key
    if any(about.colour for about in facts):
        return {value: _named(prefix, f"#{value:06x}") for value in values}
    names = {value: _numbered(prefix, value) for value in values}
    positive = [value for value in values if value > 0]
    if len(positive) == 1:
        names[positive[0]] = key
    return names


def _numbered(prefix: str, value: int) -> str:
    return _named(prefix, f"label {value}" if value > 0 else f"{NEGATIVE}{value}")


def _named(prefix: str, name: str) -> str:
    return f"{prefix} {name}" if prefix else name


def _palettes_differ(facts: list[Facts]) -> bool:
    """Whether an index has another colour in another picture, or 0 is a colour and black another index.

    Palettes in which two indices that occur have the same colour say nothing.
    """
    colours: dict[int, int] = {}
    indices: dict[int, int] = {}
    if any(len({colour for _, colour in about.palette}) < len(about.palette) for about in facts):
        return False
    for about in facts:
        of_index = dict(about.palette)
        if of_index.get(0) and 0 in of_index.values():
            return True
        for index, colour in about.palette:
            if colours.setdefault(index, colour) != colour or indices.setdefault(colour, index) != index:
                return True
    return False
