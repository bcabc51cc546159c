"""Finds the images of a folder and their label maps, and names the structures in the label maps."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.dataset_conversion.archive.image_files import Facts, facts
from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions, compiled
from nnunet_difflung.dataset_conversion.archive.pairing import Pair, pair_files
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.parallel import in_parallel
from nnunet_difflung.runtime.walk import walk


@dataclass(frozen=True)
class MaskFile:
    """A label map, and the name of the structure that each value above 0 stands for.

    Attributes:
        path: relative to the archive's folder.
        names: values and their names, including values that do not occur in this file.
        facts: about the file.
    """

    path: str
    names: tuple[tuple[int, str], ...]
    facts: Facts

    def structures(self) -> tuple[str, ...]:
        """Names of the structures in this file."""
        return tuple(name for value, name in self.names if value in (self.facts.values or ()))

    def problem(self, folder: Path) -> str:
        """One line that says why the file cannot be used as a label map, or ""."""
        if self.facts.problem or self.facts.values is not None:
            return self.facts.problem
        return (
            f"{folder / self.path}: values from {self.facts.low:g} to {self.facts.high:g}; expected a few whole "
            f"numbers as labels; if this is an image, tell images from label maps with --image and --masks"
        )


@dataclass(frozen=True)
class LabelledImage:
    """An image with its label maps.

    Attributes:
        name: see ``Pair``.
        path: relative to the archive's folder.
        masks: its label maps; empty if there are none.
        facts: about the image file.
    """

    name: str
    path: str
    masks: tuple[MaskFile, ...]
    facts: Facts


def labelled_images(
    folder: Path,
    endings: tuple[str, ...],
    options: ArchiveOptions,
    processes: int,
    what: str,
    roles_by_name: Callable[[list[str]], dict[str, bool] | None] | None = None,
) -> list[LabelledImage]:
    """The images below a folder, sorted by name; every file is read once, several at a time.

    Args:
        folder: of the archive.
        endings: file extensions to look for.
        options: how to read the archive.
        processes: number of files read at a time.
        what: what such a file is called in messages.
        roles_by_name: decides for every path whether it is a label map, or returns None if the names do not tell.
            Used if neither --image nor --masks is given, before the content of the files decides.

    Raises:
        BadInput: there is no image, a label map belongs to no image, or an option matches nothing.
    """
    paths = files_below(folder, endings)
    if not paths:
        raise BadInput(f"{folder}: no {what} found ({', '.join(endings)}); unpack the archive or correct --kind")
    roles = _given_roles(paths, options)
    used = paths if roles is None else list(roles)
    facts_of = dict(zip(used, in_parallel(facts, [folder / path for path in used], processes, "files"), strict=True))
    if roles is None:
        roles = (roles_by_name(paths) if roles_by_name else None) or _roles_by_content(facts_of)
    pairs = _paired(folder, roles)
    names = _structure_names(*_values(pairs, facts_of))
    return [
        LabelledImage(
            pair.name,
            pair.image,
            tuple(MaskFile(path, tuple(names[key].items()), facts_of[path]) for key, path in pair.masks),
            facts_of[pair.image],
        )
        for pair in pairs
    ]


def files_below(folder: Path, endings: tuple[str, ...] = ()) -> list[str]:
    """Sorted paths of the files below a folder that have one of the endings; hidden files are left out."""
    return [path for path in walk(folder).files if path.lower().endswith(endings or "")]


def _given_roles(paths: list[str], options: ArchiveOptions) -> dict[str, bool] | None:
    """Path → whether it is a label map, as --image and --masks say; None if neither is given.

    Raises:
        BadInput: an option is not a regular expression or matches nothing, or both match the same file.
    """
    matching = {}
    for option, pattern in (("--image", options.image), ("--masks", options.masks)):
        if pattern is not None:
            expression = compiled(option, pattern)
            matching[option] = {path for path in paths if expression.search(path)}
            if not matching[option]:
                raise BadInput(
                    f"{option} {pattern!r} matches none of the {len(paths)} files; expected an expression that "
                    f"matches paths such as {paths[0]}"
                )
    if not matching:
        return None
    if len(matching) == 1:
        option, matched = next(iter(matching.items()))
        return {path: (path in matched) == (option == "--masks") for path in paths}
    images, masks = matching["--image"], matching["--masks"]
    ambiguous = sorted(images & masks)
    if ambiguous:
        raise BadInput(f"{ambiguous[0]} is matched by --image and by --masks; make the expressions exclude each other")
    return {path: path in masks for path in paths if path in images | masks}


def _roles_by_content(facts_of: dict[str, Facts]) -> dict[str, bool]:
    """Path → whether it is a label map, judged by content; unreadable files get the role of their neighbours."""
    roles = {path: facts.label_map for path, facts in facts_of.items() if not facts.problem}
    for path in facts_of:
        if path not in roles:
            roles[path] = _like_neighbours(path, roles)
    return roles


def _like_neighbours(path: str, roles: dict[str, bool]) -> bool:
    """Whether an unreadable file is a label map, judged by the readable files around it.

    In parallel folders (``ct/p1``, ``label/p1``) the files of the same folder tell; with a folder for each patient
    (``p1/ct``, ``p2/ct``) the files of the same name in sibling folders tell. If both tell and disagree, the file is
    the image that the label maps beside it lack. If they do not tell, the words in the path decide.
    """
    file = Path(path)
    same_name = {
        role
        for other_path, role in roles.items()
        if Path(other_path).name == file.name
        and Path(other_path).parent.parent == file.parent.parent
        and Path(other_path).parent != file.parent
    }
    same_folder = {role for other_path, role in roles.items() if Path(other_path).parent == file.parent}
    clear = [next(iter(group)) for group in (same_name, same_folder) if len(group) == 1]
    if clear and same_name and same_folder:
        return all(clear)
    return bool(re.search(r"mask|msk|seg|label|lesion|infection|roi|lung", path, re.IGNORECASE))


def _paired(folder: Path, roles: dict[str, bool]) -> list[Pair]:
    """Images with their label maps.

    Raises:
        BadInput: there is no image, or a label map belongs to no image.
    """
    images = [path for path, is_mask in roles.items() if not is_mask]
    masks = [path for path, is_mask in roles.items() if is_mask]
    if not images:
        raise BadInput(
            f"{folder}: all {len(masks)} files look like label maps, such as {masks[0]}; expected an image "
            f"for each patient: say which files are images with --image REGEX"
        )
    pairs, orphans = pair_files(images, masks, folder.resolve().name)
    if orphans:
        raise BadInput(
            f"{folder / orphans[0]}: no image belongs to this label map ({len(orphans)} such "
            f"file{'s' * (len(orphans) > 1)}); expected an image of this name, or a single image in its folder: add "
            f"the image, rename or remove the label map, or say which files are images and label maps with --image and "
            f"--masks"
        )
    return pairs


def _values(pairs: list[Pair], facts_of: dict[str, Facts]) -> tuple[dict[str, set[int]], set[str]]:
    """Name of a label map → its values above 0 in the archive; and the names of those whose values are colours."""
    values: dict[str, set[int]] = {}
    colours = set()
    for key, path in (mask for pair in pairs for mask in pair.masks):
        values.setdefault(key, set()).update(v for v in facts_of[path].values or () if v)
        if facts_of[path].colour:
            colours.add(key)
    return values, colours


def _structure_names(values: dict[str, set[int]], colours: set[str]) -> dict[str, dict[int, str]]:
    """Name of a label map → its values and the names of the structures that they stand for.

    A label map with a single value in the whole archive is a structure, and gives it its name. Several values are
    called ``label 1``, ``label 2``, …, or by their colours, preceded by the name of the label map if the archive has
    several of them.

    Args:
        values: name of a label map → values above 0 in the whole archive.
        colours: names of the label maps whose values are colours.
    """
    names = {}
    for key, values_of_map in values.items():
        prefix = f"{key} " if len(values) > 1 else ""
        names[key] = {
            value: f"{prefix}#{value:06x}" if key in colours else f"{prefix}label {value}"
            for value in sorted(values_of_map)
        }
        if len(values_of_map) == 1 and key not in colours:
            names[key] = {next(iter(values_of_map)): key}
    return names
