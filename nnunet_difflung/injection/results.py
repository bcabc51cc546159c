"""Deletes trained generators and the cache from a dataset's results: only files that this package writes there.

Folders and files of other names stay, whatever they begin with, and so does whatever a link points to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from nnunet_difflung.injection.leaks import first_names
from nnunet_difflung.injection.selection import EVERYTHING, Selection
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import cache_folder, fold_folders, fold_of, method_name, our_folders
from nnunet_difflung.runtime.files import OF_SAFETENSORS
from nnunet_difflung.runtime.locks import delete_unused
from nnunet_difflung.runtime.wording import counted

_HALF_WRITTEN = r"(.+/)?\.writing_[^/]+"
_FAMILIES = "|".join(sorted({method.family for method in METHODS.values()}))
_IN_FOLD = re.compile(
    rf"\.lock|generator\.json|checkpoint(_previous)?\.safetensors|training_log\.jsonl|progress\.png|samples/?|"
    rf"samples/step_\d+\.png|(unet|scheduler)/?|unet/config\.json|unet/diffusion_pytorch_model[^/]*|"
    rf"scheduler/scheduler_config\.json|({_FAMILIES})/?|({_FAMILIES})/generator\.safetensors|"
    rf"segmenter/?|segmenter/(segmenter\.json|part_\d+\.safetensors)|"
    rf"synthesis_[0-9a-f]+(_[0-9a-f]+)?(_discarded)?(/.*)?|{_HALF_WRITTEN}|(.+/)?{OF_SAFETENSORS}"
)
_IN_METHOD = re.compile(rf"augment_report\.(json|lock)|preview\.png|report\.html|{_HALF_WRITTEN}")
_IN_CACHE = re.compile(rf"\.lock|[^/]+\.(image|condition)\.npy|\.[a-z]+\.json|{_HALF_WRITTEN}")
_ARRAY = ".image.npy"


def own_folders(name: str) -> list[Path]:
    """The folders of this package's methods and of the cache in a dataset's results, sorted.

    Returns:
        nothing where ``nnUNet_results`` is not set.
    """
    own = {method_name(method) for method in (*METHODS, "cache")}
    return [folder for folder in our_folders(name) if folder.name in own]


def generators(name: str, delete: bool, asked: bool, selection: Selection = EVERYTHING) -> list[str]:
    """Deletes generators and cache, and says so.

    Where some folds or a method are selected, only their generators go: the cache and the files of the whole method
    stay.

    Args:
        name: ``DatasetXXX_NAME``.
        delete: delete them; else only say what would be done.
        asked: whether the user has asked for it.
        selection: whose generators go.

    Returns:
        a line for each action.
    """
    if selection:
        return _selected(name, delete, asked, selection)
    folders = own_folders(name)
    links = [path for path in _places(folders) if path.is_symlink()]
    folders = [folder for folder in folders if not folder.is_symlink()]
    lines = [f"{path} is kept: it is a link, and what it points to may be in use elsewhere" for path in links if asked]
    kept = {folder: _delete(folder) if delete else [] for folder in folders}
    lines += [f"{path} is kept: another command is using it" for paths in kept.values() for path in paths]
    foreign = {folder: sorted(_foreign_in(folder)) if asked and folder.is_dir() else [] for folder in folders}
    lines += [
        f"{folder}: {counted(len(names), 'file')} that this package has not written "
        f"{'is' if len(names) == 1 else 'are'} kept: {first_names(names)}"
        for folder, names in foreign.items()
        if names
    ]
    listed = ", ".join(str(folder) for folder in folders if not kept[folder])
    if listed:
        lines.append(
            f"generators and cached cases removed from {listed}"
            if asked
            else f"generators are kept, with their cache, in {listed} (--generators deletes both)"
        )
    return lines


def selected_generators(name: str, selection: Selection) -> list[Path]:
    """The folders of a dataset's generators that are meant; none where ``nnUNet_results`` is not set."""
    folders = {folder.name: folder for folder in own_folders(name)}
    own = [(method, folders[method_name(method)]) for method in METHODS if method_name(method) in folders]
    return [fold for method, folder in own for fold in _folds(folder) if selection.has(method, fold_of(fold))]


def _selected(name: str, delete: bool, asked: bool, selection: Selection) -> list[str]:
    folders = selected_generators(name, selection)
    if not asked:
        listed = ", ".join(map(str, folders))
        return [f"generators are kept in {listed} (--generators deletes them)"] if folders else []
    used = [fold for fold in folders if delete and not delete_unused(fold, _empty_fold)]
    lines = [f"{fold} is kept: another command is using it" for fold in used]
    gone = ", ".join(str(fold) for fold in folders if fold not in used)
    return [*lines, f"generators removed from {gone}" if gone else f"no generator of {selection} is in $nnUNet_results"]


def own_links(folder: Path) -> list[Path]:
    """Links in a method's folder, or in that of a generator, in the place of what this package writes there; sorted."""
    if not folder.is_dir():
        return []
    names = (path for path in folder.iterdir() if path.is_symlink())
    return sorted(path for path in names if _IN_METHOD.fullmatch(path.name) or _IN_FOLD.fullmatch(path.name))


def _places(folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        yield folder
        if not folder.is_symlink():
            yield from fold_folders(folder)


def _folds(folder: Path) -> list[Path]:
    """The folders of generators in a method's folder; other names, such as ``fold_0_old``, are a user's."""
    return [
        path for path in fold_folders(folder) if re.fullmatch(r"fold_(\d+|all)", path.name) and not path.is_symlink()
    ]


def _delete(folder: Path) -> list[Path]:
    """Deletes what this package has written into the cache or into a method's folder.

    Returns:
        the folders that are kept because another command is using them.
    """
    if folder == cache_folder(folder.parent.name):
        return [] if delete_unused(folder, _empty_cache) else [folder]
    kept = [path for path in _folds(folder) if not delete_unused(path, _empty_fold)]
    if not kept:
        _empty(folder, _IN_METHOD)
        with suppress(OSError):  # not empty: a fold folder that still exists is another command's, other files a user's
            folder.rmdir()
    return kept


def _empty_fold(folder: Path) -> None:
    _empty(folder, _IN_FOLD)


def _empty_cache(folder: Path) -> None:
    for path in _entries_of_cases(folder):
        path.unlink()
    _empty(folder, _IN_CACHE)


def _entries_of_cases(folder: Path) -> list[Path]:
    """The JSON files that describe cached arrays."""
    cases = (path.name.removesuffix(_ARRAY) for path in folder.glob(f"*{_ARRAY}"))
    return [path for case in cases if (path := folder / f"{case}.json").is_file() or path.is_symlink()]


def _empty(folder: Path, own: re.Pattern[str]) -> None:
    """Deletes this package's files in a folder, and its folders if nothing is left in them; never through links."""
    for path in sorted(_all(folder), reverse=True):  # what is in a folder comes before the folder
        name = path.relative_to(folder).as_posix()
        if not own.fullmatch(name) or name == ".lock":
            continue
        if path.is_dir() and not path.is_symlink():
            with suppress(OSError):
                path.rmdir()
        else:
            path.unlink(missing_ok=True)


def _all(folder: Path) -> Iterator[Path]:
    """Everything below a folder; links are not followed."""
    for path in folder.iterdir():
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _all(path)


def _foreign_in(folder: Path) -> Iterator[str]:
    if folder == cache_folder(folder.parent.name):
        entries = {path.name for path in _entries_of_cases(folder)}
        own = {Path(): _IN_CACHE}
    else:
        entries, own = set(), {Path(): _IN_METHOD, **{path.relative_to(folder): _IN_FOLD for path in _folds(folder)}}
    for path in _all(folder):
        name = path.relative_to(folder)
        top = Path(name.parts[0]) if Path(name.parts[0]) in own else Path()
        pattern, inside = own[top], name.relative_to(top).as_posix()
        ours = name == top or name.as_posix() in entries or pattern.fullmatch(inside)
        if not ours and not (path.is_dir() and not path.is_symlink()):
            yield name.as_posix()
