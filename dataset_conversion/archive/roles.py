"""Tells images from label maps: by options, by their content and, where that leaves doubt, by the files around them.

A black picture is an image among images and an empty mask among masks; probabilities from 0 to 1 may be either. So the
content decides only where it is clear, and a file that it leaves open is taken as the files of the same kind of name.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath

from nnunet_difflung.dataset_conversion.archive.options import ArchiveOptions, compiled
from nnunet_difflung.dataset_conversion.files.image_files import Facts, stem
from nnunet_difflung.dataset_conversion.files.spelling import composed
from nnunet_difflung.errors import BadInput

_MAJORITY = 0.75  # share of the clear files of a folder that speaks for the rest
_FEWEST = 3  # clear images from which they overrule what a picture of few values looks like
_WORDS = re.compile(r"mask|msk|seg|label|lesion|infection|roi|lung", re.IGNORECASE)
_SURE_WORDS = re.compile(r"mask|msk|seg|label|prob", re.IGNORECASE)  # no image is called so; lung_ct may be one


def given_roles(paths: list[str], options: ArchiveOptions) -> dict[str, bool] | None:
    """Path → whether it is a label map, as --image and --masks say; None if neither is given.

    Raises:
        BadInput: an option is not a regular expression or matches nothing, or both match the same file.
    """
    matching = {}
    for option, pattern in (("--image", options.image), ("--masks", options.masks)):
        if pattern is not None:
            expression = compiled(option, composed(pattern))
            matching[option] = {path for path in paths if expression.search(composed(path))}
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


def roles_by_content(facts_of: dict[str, Facts]) -> tuple[dict[str, bool], set[str]]:
    """Path → whether it is a label map; and the files whose role follows from other files, not from their content."""
    clear: dict[str, bool] = {}
    for path, facts in facts_of.items():
        if not facts.problem and (role := facts.label_map) is not None:
            clear[path] = role
    counts = Counter((_kind_of_name(path), role) for path, role in clear.items())
    same_name = Counter(_beside(path) for path in clear)  # in parallel folders, or a folder for each patient
    roles, guessed = dict(clear), set()
    for path, facts in facts_of.items():
        kind = _kind_of_name(path)
        images, masks = counts[kind, False], counts[kind, True]
        if path in clear:
            if clear[path] and not facts.segments and images >= max(_FEWEST, _MAJORITY * (images + masks - 1)):
                roles[path] = False
                guessed.add(path)
            continue
        in_folder, elsewhere = images + masks, same_name[_beside(path)]
        tells = in_folder > elsewhere or (in_folder == elsewhere and not facts.problem)
        if tells and max(images, masks) >= _MAJORITY * in_folder > 0:
            roles[path] = masks > images
        else:
            roles[path] = _like_neighbours(path, clear, facts)
        if not facts.problem and facts.low == facts.high and not roles[path]:
            guessed.add(path)
    return roles, guessed


def _kind_of_name(path: str) -> tuple[str, str]:
    """The folder of a file, and its name without numbers, which files of one kind share."""
    file = PurePosixPath(path)
    return str(file.parent), re.sub(r"\d+", "#", stem(file.name))


def _beside(path: str) -> tuple[str, str]:
    """What files of the same name in sibling folders share."""
    file = PurePosixPath(path)
    return str(file.parent.parent), file.name


def _like_neighbours(path: str, roles: dict[str, bool], facts: Facts) -> bool:
    """Whether a file is a label map, judged by the clear files around it.

    In parallel folders (``ct/p1``, ``label/p1``) the files of the same folder tell; with a folder for each patient
    (``p1/ct``, ``p2/ct``) the files of the same name in sibling folders tell. If both tell and disagree, the file is
    the image that the label maps beside it lack. If they do not tell, the words in the path decide, then the content.
    """
    file = PurePosixPath(path)
    same_name = {
        role
        for other_path, role in roles.items()
        if PurePosixPath(other_path).name == file.name
        and PurePosixPath(other_path).parent.parent == file.parent.parent
        and PurePosixPath(other_path).parent != file.parent
    }
    same_folder = {role for other_path, role in roles.items() if PurePosixPath(other_path).parent == file.parent}
    clear = [next(iter(group)) for group in (same_name, same_folder) if len(group) == 1]
    if clear and same_name and same_folder:
        return all(clear)
    if facts.problem or facts.seems_label_map:
        return facts.seems_label_map or bool(_WORDS.search(path))
    return bool(_SURE_WORDS.search(path))
