"""Finds out which label maps belong to which image, in the folder layouts that people have.

A folder for each patient (``p1/ct``, ``p1/lung``, also ``p1/masks/lung``), parallel folders (``images/p1``,
``masks/p1``, ``lesions/p1``), or all in one folder (``p1``, ``p1_lung``); and these inside one another.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from nnunet_difflung.dataset_conversion.archive.image_files import stem

_WORD = r"(?:0000|ct|hrct|images?|imgs?|im|scan|vol(?:ume)?|masks?|msk|seg(?:mentation)?s?|labels?|gt|annotations?)"
_LAST = re.compile(rf"[ _.-]+{_WORD}$", re.IGNORECASE)
_FIRST = re.compile(rf"^{_WORD}[ _.-]+", re.IGNORECASE)
_SEPARATORS = " _.-"


@dataclass(frozen=True)
class Pair:
    """An image and its label maps.

    Attributes:
        name: of the image, ``/`` between folders.
        image: path below the archive's folder.
        masks: what the label map is called (the same for every image) and its path.
    """

    name: str
    image: str
    masks: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Match:
    name: tuple[str, ...]
    image: str
    masks: tuple[tuple[str, str, str], ...]  # folder of the label map, rest of its name, path


def pair_files(images: Sequence[str], masks: Sequence[str], root: str) -> tuple[list[Pair], list[str]]:
    """Gives every image its label maps.

    Args:
        images, masks: paths below the archive's folder, with ``/``.
        root: name of the archive's folder; names a single patient who lies there.

    Returns:
        A pair for each image, sorted by name (also without label map), and the label maps that fit no image.
    """
    matches = _pair(sorted(images), sorted(masks), (), root)
    used = {path for match in matches for _, _, path in match.masks}
    several = {folder for match in matches for folder, n in Counter(f for f, _, _ in match.masks).items() if n > 1}
    pairs = []
    for match in matches:
        keys = [
            (rest or folder or "mask") if folder in several else (folder or rest or "mask")
            for folder, rest, _ in match.masks
        ]
        named = tuple((key, path) for key, (*_, path) in zip(keys, match.masks, strict=True))
        pairs.append(Pair("/".join(match.name), match.image, named))
    return sorted(pairs, key=lambda pair: natural(pair.name)), sorted(set(masks) - used)


def natural(name: str) -> list:
    """Sorting key that puts 2 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _pair(images: list[str], masks: list[str], at: tuple[str, ...], root: str) -> list[_Match]:
    if len(images) == 1:
        return [_single(images[0], masks, at, root)]
    groups: dict[str, tuple[list[str], list[str]]] = {}
    for paths, side in ((images, 0), (masks, 1)):
        for path in paths:
            below = PurePosixPath(path).parts[len(at) :]
            groups.setdefault(below[0] if len(below) > 1 else "", ([], []))[side].append(path)
    if set(groups) == {""} or not all(found for found, labels in groups.values() if labels):
        return _matched(images, masks, at)
    return [
        match
        for name, (found, labels) in sorted(groups.items())
        if found
        for match in (_pair(found, labels, (*at, name), root) if name else _matched(found, labels, at))
    ]


def _single(image: str, masks: list[str], at: tuple[str, ...], root: str) -> _Match:
    """One image in a folder: all label maps there are its own."""
    name = at or (root,)
    stems = {path: stem(path) for path in (image, *masks)}
    if any(stems[path] == stems[image] for path in masks) or not (masks or at):
        name = (*at[:-1], stems[image])  # parallel folders with one patient, or a file alone
        return _Match(name, image, tuple((_folder(path, at), "", path) for path in masks))
    start = os.path.commonprefix(list(stems.values())) if masks else ""
    start = start[: max(start.rfind(s) for s in _SEPARATORS) + 1]
    rests = {}
    for path in masks:
        rest = stems[path].removeprefix(start) if re.search(r"\d", start) else stems[path]
        rests[path] = rest.removeprefix(name[-1]).strip(_SEPARATORS) or rest
    twice = {rest for rest, n in Counter(rests.values()).items() if n > 1}
    return _Match(
        name,
        image,
        tuple(("", f"{_folder(path, at)} {rest}" if rest in twice else rest, path) for path, rest in rests.items()),
    )


def _folder(path: str, at: tuple[str, ...]) -> str:
    below = PurePosixPath(path).parts[len(at) :]
    return below[0] if len(below) > 1 else ""


def _matched(images: list[str], masks: list[str], at: tuple[str, ...]) -> list[_Match]:
    """Several images and label maps: brought together by the part of their names that they share."""
    best: tuple[dict[str, str], dict[str, tuple[str, str]]] = {}, {}
    for shorten in _ways(images, masks, at):
        names = {shorten(path): path for path in images}
        if len(names) < len(images):
            continue
        found = {path: hit for path in masks if (hit := _longest(shorten(path), names))}
        if not best[0] or len(found) > len(best[1]):
            best = names, found
        if len(found) == len(masks):
            break
    names, found = best
    belonging: dict[str, list] = {name: [] for name in names}
    for path, (name, rest) in found.items():
        belonging[name].append((_folder(path, at), rest, path))
    return [_Match((*at, *name.split("/")), path, tuple(belonging[name])) for name, path in names.items()]


def _longest(name: str, images: dict[str, str]) -> tuple[str, str] | None:
    """The image whose name is this one or begins it, and what follows."""
    for end in (len(name), *(i for i in range(len(name) - 1, 0, -1) if name[i] in _SEPARATORS)):
        if name[:end] in images:
            return name[:end], name[end:].strip(_SEPARATORS)
    return None


def _ways(images: list[str], masks: list[str], at: tuple[str, ...]) -> list[Callable[[str], str]]:
    """Ways to shorten a path to the name that image and label map share, the most literal first."""
    folders = {_folder(path, at) for path in (*images, *masks)}
    skip = len(at) + (0 if folders == {""} else 1)

    def below(path: str) -> str:
        parts = PurePosixPath(path).parts[skip:] or (PurePosixPath(path).name,)
        return "/".join((*parts[:-1], stem(parts[-1])))

    def bare(name: str) -> str:
        head, slash, last = name.rpartition("/")
        return head + slash + (_FIRST.sub("", _LAST.sub("", last)) or last)

    ends = {}
    for folder in folders:
        inside = [stem(p) for p in (*images, *masks) if _folder(p, at) == folder]
        ends[folder] = (_common(inside), _common([s[::-1] for s in inside])) if len(inside) > 1 else (0, 0)

    def without_ends(path: str) -> str:
        first, last = ends[_folder(path, at)]
        name = stem(path)
        return name[first : len(name) - last] or name

    return [
        below,
        stem,
        lambda p: bare(below(p)),
        lambda p: bare(stem(p)),
        without_ends,
        lambda p: str(PurePosixPath(p).with_name(stem(p))),
    ]


def _common(names: list[str]) -> int:
    """Length of the beginning that all names share, without the digits at its end."""
    return len(os.path.commonprefix(names).rstrip("0123456789"))
