"""Finds out which label maps belong to which image, in the folder layouts that are in common use.

A folder for each patient (``p1/ct``, ``p1/lung``, also ``p1/masks/lung``), parallel folders (``images/p1``,
``masks/p1``, ``lesions/p1``), all files in one folder (``p1``, ``p1_lung``), and nested combinations of these.

A label map belongs to the image of its own name, or to that of the name before a word for a structure or a mask. It
never belongs to an image whose name merely begins its own: ``p1_2`` and ``p1_followup`` are other scans than ``p1``.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from nnunet_difflung.dataset_conversion.files.image_files import stem
from nnunet_difflung.dataset_conversion.files.spelling import composed

_WORD = r"(?:0000|ct|hrct|images?|imgs?|im|scan|vol(?:ume)?|masks?|msk|seg(?:mentation)?s?|labels?|gt|annotations?)"
_LAST = re.compile(rf"[ _.-]+{_WORD}$", re.IGNORECASE)
_FIRST = re.compile(rf"^{_WORD}[ _.-]+", re.IGNORECASE)
_SEPARATORS = " _.-"
_DRAWN = re.compile(  # words for what is drawn; such a name may be that of a structure of one patient only
    r"(?:masks?|msk|seg(?:mentation)?s?|labels?|gt|annotations?|rois?|lesions?|lungs?|lobes?|airways?|trachea|vessels?|"
    r"tumou?rs?|nod(?:ule)?s?|mass(?:es)?|gtv|ctv|ptv|igtv|itv|ggo|ground|consol\w*|emph\w*|fibro\w*|ild|honeycomb\w*|"
    r"effusion|infection|covid\w*|pneumo\w*|heart|body|oesophagus|esophagus|liver|spinal|cord)(?![a-z])",
    re.IGNORECASE,
)
_SCAN = re.compile(  # words for another scan of a patient, or another patient
    r"(?:[a-z]{0,3}\d.*|pre|post|old|new|prior|base(?:line)?|bl|fu|follow\w*|re(?:scan|peat)|visit.*|insp\w*|exp\w*|"
    r"supine|prone|early|late|before|after|[a-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Pair:
    """An image and its label maps.

    Attributes:
        name: of the image, with ``/`` between folders.
        image: path relative to the archive's folder.
        masks: for each label map, its name (the same for every image) and its path.
        guessed: whether nothing but a number tells that image and label maps belong together.
    """

    name: str
    image: str
    masks: tuple[tuple[str, str], ...]
    guessed: bool = False


@dataclass(frozen=True)
class _Match:
    name: tuple[str, ...]
    image: str
    masks: tuple[tuple[str, str, str], ...]  # for each label map: subfolder, suffix of its name, path
    guessed: bool = False


def pair_files(images: Sequence[str], masks: Sequence[str], root: str) -> tuple[list[Pair], list[str]]:
    """Assigns label maps to images.

    Args:
        images, masks: paths relative to the archive's folder, with ``/``.
        root: name of the archive's folder; becomes the name of a single patient whose files lie directly in it.

    Returns:
        A pair for each image (also for images without label maps), sorted by name, and the label maps that belong to
        no image.
    """
    stored = {composed(path): path for path in (*images, *masks)}
    of_images, of_masks = (sorted(composed(path) for path in paths) for paths in (images, masks))
    matches = _without_strangers(_pair(of_images, of_masks, (), composed(root)))
    used = {path for match in matches for _, _, path in match.masks}
    several = {folder for match in matches for folder, n in Counter(f for f, _, _ in match.masks).items() if n > 1}
    pairs = []
    for match in matches:
        keys = [
            (suffix or folder or "mask") if folder in several else (folder or suffix or "mask")
            for folder, suffix, _ in match.masks
        ]
        named = tuple((key, stored[path]) for key, (*_, path) in zip(keys, match.masks, strict=True))
        pairs.append(Pair("/".join(match.name), stored[match.image], named, match.guessed and bool(named)))
    orphans = sorted(stored[path] for path in set(of_masks) - used)
    return sorted(pairs, key=lambda pair: natural(pair.name)), orphans


def _without_strangers(matches: list[_Match]) -> list[_Match]:
    """Matches without label maps that seem to belong to another image, which is missing.

    Beside the label map ``p1`` of an image ``p1``, ``p1_lung`` is a second label map of it only if the other images
    with a label map of their own name in this folder have one of this kind too.
    """
    with_own: dict[str, list[set[str]]] = {}  # folder → for each image with a label map of its name: all suffixes
    for match in matches:
        for folder in {folder for folder, suffix, _ in match.masks if not suffix}:
            with_own.setdefault(folder, []).append({suffix for place, suffix, _ in match.masks if place == folder})

    def belongs(match: _Match, folder: str, suffix: str) -> bool:
        if not suffix or not any(place == folder and not name for place, name, _ in match.masks):
            return True
        return all(suffix in suffixes for suffixes in with_own[folder])

    return [
        replace(match, masks=tuple(mask for mask in match.masks if belongs(match, mask[0], mask[1])))
        for match in matches
    ]


def natural(name: str) -> list:
    """Sorting key that puts 2 before 10."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _pair(images: list[str], masks: list[str], folder: tuple[str, ...], root: str) -> list[_Match]:
    """Matches the images and label maps of a folder (its parts, relative to the archive) and of its subfolders."""
    if len(images) == 1:
        return [_single(images[0], masks, folder, root)]
    groups: dict[str, tuple[list[str], list[str]]] = {}
    for paths, side in ((images, 0), (masks, 1)):
        for path in paths:
            groups.setdefault(_subfolder(path, folder), ([], []))[side].append(path)
    if set(groups) == {""} or not all(group_images for group_images, group_masks in groups.values() if group_masks):
        return _matched(images, masks, folder)
    matches = []
    for name, (group_images, group_masks) in sorted(groups.items()):
        if group_images and name:
            matches += _pair(group_images, group_masks, (*folder, name), root)
        elif group_images:
            matches += _matched(group_images, group_masks, folder)
    return matches


def _single(image: str, masks: list[str], folder: tuple[str, ...], root: str) -> _Match:
    """The only image of a folder gets all label maps in it."""
    name = folder or (root,)
    masks = [path for path in masks if not _of_another_scan(stem(path), stem(image))]
    stems = {path: stem(path) for path in (image, *masks)}
    if any(stems[path] == stems[image] for path in masks) or not (masks or folder):
        name = (*folder[:-1], stems[image])  # parallel folders with a single patient, or a single file
        return _Match(name, image, tuple((_subfolder(path, folder), "", path) for path in masks))
    start = os.path.commonprefix(list(stems.values())) if masks else ""
    start = start[: max(start.rfind(separator) for separator in _SEPARATORS) + 1]
    suffixes = {}
    for path in masks:
        suffix = stems[path].removeprefix(start) if re.search(r"\d", start) else stems[path]
        suffixes[path] = suffix.removeprefix(name[-1]).strip(_SEPARATORS) or suffix
    ambiguous = {suffix for suffix, n in Counter(suffixes.values()).items() if n > 1}
    return _Match(
        name,
        image,
        tuple(
            ("", f"{_subfolder(path, folder)} {suffix}" if suffix in ambiguous else suffix, path)
            for path, suffix in suffixes.items()
        ),
    )


def _of_another_scan(mask: str, image: str) -> bool:
    """Whether a label map and the only image are of two scans, as their names say: ``p2`` or ``p1_2``, and ``p1``."""
    bare_mask, bare_image = _bare(mask), _bare(image)
    if bare_mask == bare_image:
        return False
    pattern = [re.sub(r"\d+", "#", name) for name in (bare_mask, bare_image)]
    rest = bare_mask.removeprefix(bare_image)
    if rest != bare_mask and rest[0] in _SEPARATORS:
        return not _is_structure(rest.strip(_SEPARATORS))
    return pattern[0] == pattern[1] and pattern[0] != "#" or pattern[0].startswith(f"{pattern[1]}_#")


def _is_structure(suffix: str) -> bool:
    """Whether what follows the name of an image names what is drawn, and no scan."""
    first = re.split(r"[ _.-]", suffix)[0]
    return bool(_DRAWN.match(suffix)) or not (first[:1].isdigit() or _SCAN.fullmatch(first))


def _bare(name: str) -> str:
    """A name without a word such as ``ct`` or ``mask`` at its ends."""
    head, slash, last = name.rpartition("/")
    return head + slash + (_FIRST.sub("", _LAST.sub("", last)) or last)


def _subfolder(path: str, folder: tuple[str, ...]) -> str:
    """The first folder of a path below ``folder``, ``""`` for a file that lies directly in it."""
    below = PurePosixPath(path).parts[len(folder) :]
    return below[0] if len(below) > 1 else ""


def _matched(images: list[str], masks: list[str], folder: tuple[str, ...]) -> list[_Match]:
    """Matches several images and label maps by the part of their names that they share."""
    best: tuple[dict[str, str], dict[str, tuple[str, str]], bool] = {}, {}, False
    for shorten, sure in _shortenings(images, masks, folder):
        names = {shorten(path): path for path in images}
        if len(names) < len(images):
            continue
        assigned = {path: match for path in masks if (match := _longest(shorten(path), names))}
        if not best[0] or len(assigned) > len(best[1]):
            best = names, assigned, not sure
        if len(assigned) == len(masks):
            break
    names, assigned, guessed = best
    masks_of: dict[str, list] = {name: [] for name in names}
    for path, (name, suffix) in assigned.items():
        masks_of[name].append((_subfolder(path, folder), suffix, path))
    return [_Match((*folder, *name.split("/")), path, tuple(masks_of[name]), guessed) for name, path in names.items()]


def _longest(name: str, images: dict[str, str]) -> tuple[str, str] | None:
    """The name of the image whose label map has a name, and the remainder, which names a structure; or None."""
    for end in (len(name), *(i for i in range(len(name) - 1, 0, -1) if name[i] in _SEPARATORS)):
        if name[:end] in images:
            suffix = name[end:].strip(_SEPARATORS)
            return (name[:end], suffix) if not suffix or _is_structure(suffix) else None
    return None


def _shortenings(
    images: list[str], masks: list[str], folder: tuple[str, ...]
) -> list[tuple[Callable[[str], str], bool]]:
    """Functions that shorten a path to the name that an image and its label maps share, the most literal first.

    Each comes with whether such a name is sure to be that of the scan; a number that is left of two different names is
    not.
    """
    subfolders = {_subfolder(path, folder) for path in (*images, *masks)}
    skip = len(folder) + (0 if subfolders == {""} else 1)

    def below(path: str) -> str:
        parts = PurePosixPath(path).parts[skip:] or (PurePosixPath(path).name,)
        return "/".join((*parts[:-1], stem(parts[-1])))

    ends = {}
    for subfolder in subfolders:
        names = [stem(path) for path in (*images, *masks) if _subfolder(path, folder) == subfolder]
        first, last = (_common(names), _common([name[::-1] for name in names])) if len(names) > 1 else (0, 0)
        suffix = names[0][len(names[0]) - last :].strip(_SEPARATORS) if last else ""
        of_masks = not any(_subfolder(path, folder) == subfolder for path in images)
        ends[subfolder] = first, 0 if of_masks and suffix and not _is_structure(suffix) else last

    def without_ends(path: str) -> str:
        first, last = ends[_subfolder(path, folder)]
        name = stem(path)
        return name[first : len(name) - last] or name

    return [
        (below, True),
        (stem, True),
        (lambda path: _bare(below(path)), True),
        (lambda path: _bare(stem(path)), True),
        (without_ends, False),
        (lambda path: str(PurePosixPath(path).with_name(stem(path))), True),
    ]


def _common(names: list[str]) -> int:
    """Length of the beginning that all names share, not counting digits at its end."""
    return len(os.path.commonprefix(names).rstrip("0123456789"))
