"""The images of a folder with their label maps: which file is what, what belongs together, what values are called."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.dataset_conversion.archive.image_files import Facts, facts
from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions, compiled
from nnunet_difflung.dataset_conversion.archive.pairing import Pair, pair_files
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.parallel import in_parallel


@dataclass(frozen=True)
class MaskFile:
    """A label map, and the structure that each of its values above 0 stands for.

    Attributes:
        path: below the archive's folder.
        names: value and name, also of values that this file does not hold.
        facts: of the file.
    """

    path: str
    names: tuple[tuple[int, str], ...]
    facts: Facts

    def structures(self) -> tuple[str, ...]:
        """Names of what this file holds."""
        return tuple(name for value, name in self.names if value in (self.facts.values or ()))

    def problem(self, folder: Path) -> str:
        """Why this cannot be used as a label map, or ""."""
        if self.facts.problem or self.facts.values is not None:
            return self.facts.problem
        return (
            f"{folder / self.path}: values from {self.facts.low:g} to {self.facts.high:g}, not a few whole ones; "
            f"expected labels; name images and label maps with --image and --masks"
        )


@dataclass(frozen=True)
class LabelledImage:
    """An image with its label maps.

    Attributes:
        name: as of ``Pair``.
        path: below the archive's folder.
        masks: its label maps, none where nothing is drawn.
        facts: of the image.
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
        endings: of the files to look at.
        options: of the archive.
        processes: files read at a time.
        what: what such a file is called, for messages.
        roles_by_name: path → whether it is a label map, or None where names do not tell; asked where --image and
            --masks say nothing, before the content is.

    Raises:
        BadInput: no image, a label map without image, or options that fit nothing.
    """
    paths = files_below(folder, endings)
    if not paths:
        raise BadInput(f"{folder}: no {what} ({', '.join(endings)}) found; unpack the archive or correct --kind")
    roles = _given_roles(paths, options)
    read = paths if roles is None else list(roles)
    found = dict(zip(read, in_parallel(facts, [folder / path for path in read], processes, "files"), strict=True))
    if roles is None:
        roles = (roles_by_name(paths) if roles_by_name else None) or _roles_by_content(found)
    pairs = _paired(folder, roles)
    names = _structure_names(*_values(pairs, found))
    return [
        LabelledImage(
            pair.name,
            pair.image,
            tuple(MaskFile(path, tuple(names[key].items()), found[path]) for key, path in pair.masks),
            found[pair.image],
        )
        for pair in pairs
    ]


def files_below(folder: Path, endings: tuple[str, ...] = ()) -> list[str]:
    """Paths below a folder with one of the endings, sorted, with ``/``; hidden ones are left out."""
    found = []
    for at, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        below = Path(at).relative_to(folder)
        found += [
            (below / name).as_posix()
            for name in names
            if not name.startswith(".") and name.lower().endswith(endings or "")
        ]
    return sorted(found)


def _given_roles(paths: list[str], options: ArchiveOptions) -> dict[str, bool] | None:
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


def _roles_by_content(found: dict[str, Facts]) -> dict[str, bool]:
    """Path → whether it is a label map, by what the files hold; unreadable ones go with their neighbours."""
    roles = {path: facts.label_map for path, facts in found.items() if not facts.problem}
    for path in found:
        if path not in roles:
            roles[path] = _like_neighbours(path, roles)
    return roles


def _like_neighbours(path: str, roles: dict[str, bool]) -> bool:
    """Role of an unreadable file, by the readable ones of its name in sibling folders and those of its own folder.

    In parallel folders its folder tells, in a folder for each patient its name; where both tell and disagree there
    would be no image for its label maps, so it is that. Where they do not tell, the words in its path do.
    """
    at = Path(path)
    groups = [
        {
            r
            for p, r in roles.items()
            if Path(p).name == at.name and Path(p).parent.parent == at.parent.parent and Path(p).parent != at.parent
        },
        {r for p, r in roles.items() if Path(p).parent == at.parent},
    ]
    clear = [next(iter(group)) for group in groups if len(group) == 1]
    if clear and all(groups):
        return all(clear)
    return bool(re.search(r"mask|msk|seg|label|lesion|infection|roi|lung", path, re.IGNORECASE))


def _paired(folder: Path, roles: dict[str, bool]) -> list[Pair]:
    """Images with their label maps.

    Raises:
        BadInput: no image, or a label map without one.
    """
    images, masks = ([path for path, mask in roles.items() if mask == wanted] for wanted in (False, True))
    if not images:
        raise BadInput(
            f"{folder}: all {len(masks)} files look like label maps, such as {masks[0]}; expected an image "
            f"for each patient; name the images with --image REGEX"
        )
    pairs, orphans = pair_files(images, masks, folder.resolve().name)
    if orphans:
        raise BadInput(
            f"{folder / orphans[0]}: no image belongs to this label map ({len(orphans)} such files); "
            f"expected the image's name in it or one image in its folder; rename it, or say with --image "
            f"and --masks which files are what"
        )
    return pairs


def _values(pairs: list[Pair], found: dict[str, Facts]) -> tuple[dict[str, set[int]], set[str]]:
    """Label map → its values above 0 in the whole archive, and the label maps whose values are colours."""
    values: dict[str, set[int]] = {}
    colours = set()
    for key, path in (mask for pair in pairs for mask in pair.masks):
        values.setdefault(key, set()).update(v for v in found[path].values or () if v)
        if found[path].colour:
            colours.add(key)
    return values, colours


def _structure_names(values: dict[str, set[int]], colours: set[str]) -> dict[str, dict[int, str]]:
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
