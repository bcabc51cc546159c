"""Checks before a long run, and before anything is injected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from nnunet_difflung.audit.audit import audit
from nnunet_difflung.config import Settings, differences, generator_identity
from nnunet_difflung.dataset.cache import SliceCache, read_cache
from nnunet_difflung.dataset.headers import grid_of, shape_and_bytes
from nnunet_difflung.dataset.hu_check import check_hu
from nnunet_difflung.dataset.places import linked_from
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.dataset.writing import check_writing
from nnunet_difflung.errors import BadInput, Failed
from nnunet_difflung.generator.card import CARD, read_card
from nnunet_difflung.generator.encoding import cut_off
from nnunet_difflung.injection.dataset_lock import lock_file, locked
from nnunet_difflung.injection.leaks import first_names
from nnunet_difflung.injection.manifest import cases_of
from nnunet_difflung.injection.preconditions import check_places, check_unchanged
from nnunet_difflung.injection.results import own_links
from nnunet_difflung.injection.run_settings import identity_in
from nnunet_difflung.judging.gate import passes
from nnunet_difflung.judging.selection import recognised
from nnunet_difflung.methods import METHODS
from nnunet_difflung.painting.cases import SynthesisResult
from nnunet_difflung.paths import cache_folder, dataset_id, fold_folder, results_folder
from nnunet_difflung.pipeline.on_record import earlier_rows
from nnunet_difflung.preparing.fold import Fold
from nnunet_difflung.runtime.locks import is_held, using
from nnunet_difflung.runtime.messages import note, warn
from nnunet_difflung.runtime.modes import make_folder
from nnunet_difflung.runtime.wording import counted, quoted
from nnunet_difflung.runtime.writable import check_folders, is_writable
from nnunet_difflung.telling.next_commands import planned_configurations

_SLICES_NAMED = 8
_SAME_DEPTH = 1.5  # ratio of two z spacings up to which nnU-Net resamples one slice to one slice
_ALIKE_IN_ALL_CASES = ("CTNormalization", "NoNormalization", "RGBTo01Normalization")  # of nnU-Net's schemes


def check_names(raw: RawDataset, settings: Settings) -> None:
    """Refuses options that name classes or channels which the dataset does not have.

    Raises:
        BadInput: names the option and the classes or channels of the dataset.
    """
    windows = settings.generator.windows
    if windows and len(windows) != len(raw.channels):
        raise BadInput(
            f"--window has {len(windows)} pairs, but {raw.name} has {len(raw.channels)} channel(s): "
            f"{', '.join(raw.channels)}; give one LOW,HIGH for each"
        )
    for name in settings.balance.target_share:
        if name not in raw.roles.pathologies:
            raise BadInput(
                f"--target-share names {name!r}, which is not a pathology of {raw.folder / 'dataset.json'}: "
                f"{', '.join(raw.roles.pathologies)}"
            )


def check_before_training(raw: RawDataset, manifest: dict | None, folds: Sequence[int | str], method: str) -> None:
    """Refuses what the injection, the audit at the end or the disk would refuse after hours; writes nothing.

    The command and its dry run both call it. What needs the voxels is checked later, once the cases are read.

    Args:
        raw: the dataset.
        manifest: manifest of its synthetic cases; None if it has none.
        folds: the folds that will get synthetic cases.
        method: name of the method that makes them.

    Raises:
        BadInput: names what is wrong and what to do.
    """
    results, cache = _results_folders(raw.name, method, folds), cache_folder(raw.name)
    check_places(raw, [*results, cache, *(entry for folder in results for entry in own_links(folder))])
    check_unchanged(raw, manifest)
    check_writing(raw.reader, raw.dataset_json["file_ending"])
    check_folders(results)
    if not cache.is_dir() or not (is_writable(cache) or read_cache(raw, cache) is not None):
        check_folders([cache])
    earlier_rows(raw.name, method)
    problems = [problem.text for problem in audit(raw.name, deep=True, untouched=True).problems]
    if problems:
        raise BadInput(
            f"the audit of {raw.name} fails already: {problems[0]}; put this right before more synthetic cases are "
            f"made (difflung_audit -d {dataset_id(raw.name)} lists all {len(problems)} problems)"
        )


def _results_folders(name: str, method: str, folds: Sequence[int | str]) -> list[Path]:
    """The folders of a method and of its generators in a dataset's results."""
    methods = dict.fromkeys((method, METHODS[method].trained.name))
    return [
        *(results_folder(name, each) for each in methods),
        *(fold_folder(name, each, fold) for fold in folds for each in methods),
    ]


def wait_for_other_command(raw: RawDataset, dry_run: bool) -> None:
    """Waits at once, not after the training, if another command holds the dataset's lock; a dry run only says so."""
    if is_held(lock_file(raw.folder)):
        if dry_run:
            note(f"another command is changing {raw.name}; the run would wait for it")
        else:
            with locked(raw.folder):
                pass


def warn_of_linked_datasets(raw: RawDataset) -> None:
    """Warns of other datasets whose folders of cases are links to those of this one."""
    linked = linked_from(raw.name)
    if linked:
        warn(
            f"{linked[0]} is a link to cases of {raw.name}, so {linked[0].parent.name} would show the "
            f"synthetic cases too, which its dataset.json does not count; nnU-Net cannot plan it until difflung_remove "
            f"has run, or until a folder of its own is in the place of the link"
        )


def warn_of_geometry(raw: RawDataset, facts: dict[str, CaseFacts]) -> None:
    """Warns of what is odd about the shapes and axes of cases.

    Among that are single slices that nnU-Net's 2d configuration would cut into lines, across the largest spacing.
    """
    odd = [f for f in facts.values() if f.shape[0] == 1 and f.spacing[0] < max(f.spacing[1:])]
    if odd:
        warn(
            f"{odd[0].identifier} and {len(odd) - 1} other single slices of {raw.name} have a z spacing "
            f"({odd[0].spacing[0]:g} mm) smaller than their pixel spacing ({max(odd[0].spacing[1:]):g} mm), so nnU-Net "
            f"will take another axis for the slice axis and train on patches one pixel wide; write a larger z "
            f"spacing into the files"
        )
    _warn_of_slices_among_volumes(raw, facts)
    _warn_of_directions(raw, facts)
    _warn_of_blank_slices(raw, facts)


def warn_of_windows(raw: RawDataset, cache: SliceCache, settings: Settings) -> None:
    """Warns of a ``--window`` that cuts a pathology off: what lies beyond it would be painted in a single value."""
    windows = settings.generator.windows
    for (channel, name), share in cut_off(cache, list(raw.cases), windows).items():
        low, high = windows[channel]
        warn(
            f"--window {low:g},{high:g} cuts off {share:.0%} of the voxels of {name} in {raw.name}, channel "
            f"{raw.channels[channel]}: all of them are painted in one value; choose a wider window, or leave the "
            f"option out"
        )


def _warn_of_slices_among_volumes(raw: RawDataset, facts: dict[str, CaseFacts]) -> None:
    """Warns of lesions whose sizes cannot be compared: areas in single slices, volumes in the other cases."""
    holding = [case for case in facts.values() if any(case.voxels(name) for name in raw.roles.pathologies)]
    slices = sorted(case.identifier for case in holding if case.shape[0] == 1)
    if slices and len(slices) < len(holding):
        warn(
            f"{counted(len(slices), 'case')} of {raw.name} with a pathology "
            f"{'is a single slice' if len(slices) == 1 else 'are single slices'} ({first_names(slices)}), the others "
            f"are volumes; an area cannot be compared with a volume, so hosts get too much or too little: make a "
            f"dataset of the slices and one of the volumes"
        )


def _warn_of_directions(raw: RawDataset, facts: dict[str, CaseFacts]) -> None:
    """Warns of cases whose axes run in other directions than those of the rest, or whose slices are not axial."""
    of_directions: dict[str, list[str]] = {}
    for case in facts.values():
        if case.directions:
            of_directions.setdefault(case.directions, []).append(case.identifier)
    if not of_directions:
        return
    usual = max(of_directions, key=lambda ends: len(of_directions[ends]))
    odd = sorted(name for ends, names in of_directions.items() if ends != usual for name in names)
    across = sorted(n for ends, names in of_directions.items() if not ends.startswith(("head", "feet")) for n in names)
    if odd:
        others = f"{first_names(odd)} ({facts[odd[0]].directions}, in most cases {usual})"
    elif across:
        others = f"{first_names(across)} ({usual}), whose slices are not axial"
    else:
        return
    warn(
        f"in {raw.name} z, y and x lead towards other parts of the body in {others}; places in the lung are found "
        f"along these axes, so lesions would be painted where they do not belong, or mirrored. Let nnU-Net turn all "
        f'cases alike: set "overwrite_image_reader_writer": "SimpleITKIOWithReorient" in dataset.json, then plan and '
        f"preprocess again"
    )


def _warn_of_blank_slices(raw: RawDataset, facts: dict[str, CaseFacts]) -> None:
    """Warns of volumes in which something has filled up slices that show lung by their labels, as missing ones are."""
    blank = [
        f"{case.identifier} (z {', '.join(map(str, case.blank[:_SLICES_NAMED]))}"
        f"{', …' if len(case.blank) > _SLICES_NAMED else ''})"
        for case in facts.values()
        if case.blank
    ]
    if blank:
        warn(
            f"{counted(len(blank), 'case')} of {raw.name} {'has' if len(blank) == 1 else 'have'} slices that hold a "
            f"single value, though lung or a pathology is labelled in them: {first_names(blank)}, counted from 0 "
            f"(missing slices may have been filled up); export the images again, or delete the labels of these slices"
        )


def warn_or_refuse_values(raw: RawDataset, facts: dict[str, CaseFacts], settings: Settings, shown: bool = True) -> None:
    """Refuses channels called CT whose values are not HU; with ``--window`` it only warns, if ``shown``.

    Raises:
        BadInput: says what was found and what to do.
    """
    for line in check_hu(raw, facts, bool(settings.generator.windows)):
        if shown:
            warn(line)


def _is_volume(path: str, unknown: bool = False) -> bool:
    """Whether a file holds several slices; ``unknown`` where its header cannot be read."""
    shape, _ = shape_and_bytes(path)
    return len(shape) == 3 and shape[2] > 1 if shape else unknown


def check_box(raw: RawDataset, settings: Settings) -> None:
    """Refuses boxes for channels that nnU-Net normalises by the mean of each case, which differs in a box.

    Raises:
        BadInput: names the channel and the remedy.
    """
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme

    for name in raw.channels if settings.sampling.box is not None else ():
        scheme = get_normalization_scheme(name).__name__
        if scheme not in _ALIKE_IN_ALL_CASES and any(_is_volume(case.images[0]) for case in raw.cases.values()):
            raise BadInput(
                f"--box: nnU-Net normalises the channel {name!r} of {raw.name} by {scheme}, with figures of each case, "
                f"so that a part of a volume would look different from all of it; leave the option out"
            )


def check_configuration(raw: RawDataset, configuration: str) -> None:
    """Refuses a 3d configuration for single slices, of which nnU-Net plans none.

    nnU-Net's planner leaves 3d out where the median case has one slice. Slices whose z spacings differ so much that it
    would make several slices of one, or that are thinner than their pixels are large, are left to it.

    Raises:
        BadInput: says which configuration to give.
    """
    if not configuration.startswith("3d") or configuration in planned_configurations(raw.preprocessed):
        return
    depths = []
    for case in raw.cases.values():
        grid = grid_of(case.images[0])
        if grid is None or (len(grid.size) > 2 and grid.size[2] != 1):
            return
        if len(grid.size) > 2:  # else nnU-Net takes the picture for a slice of 999 mm
            depths.append(grid.spacing[2])
            if grid.spacing[2] < max(grid.spacing[:2]):
                return
    if depths and not max(depths) < _SAME_DEPTH * min(depths):
        return
    raise BadInput(
        f"-c {configuration}: {raw.name} holds single slices, for which nnU-Net plans no 3d configuration; give -c 2d"
    )


def without_idle_options(raw: RawDataset, settings: Settings, shown: bool) -> Settings:
    """The settings without options for volumes where all cases are single slices; a note names them, if ``shown``.

    So these options do not make equal runs look different.
    """
    given = {"--box": settings.sampling.box, "--neighbours": settings.generator.neighbours}
    idle = [name for name, value in given.items() if value is not None]
    if not idle or any(_is_volume(case.images[0], unknown=True) for case in raw.cases.values()):
        return settings
    if shown:
        note(f"{raw.name} holds single slices, so {' and '.join(idle)} {'have' if idle[1:] else 'has'} no effect.")
    sampling, generator = replace(settings.sampling, box=None), replace(settings.generator, neighbours=None)
    return replace(settings, sampling=sampling, generator=generator)


def folds_to_do(raw: RawDataset, manifest: dict | None, wanted: Sequence[str], settings: Settings) -> list[int | str]:
    """The wanted folds that have no cases of the settings' method yet.

    Raises:
        BadInput: a fold has cases of this method that were made with other settings.
    """
    folds, method, content = raw.folds(wanted), settings.method, settings.as_dict()
    runs = {run["fold"]: run for run in manifest["runs"] if run["method"] == method} if manifest else {}
    for fold in list(runs):
        before = identity_in(runs[fold].get("settings"), fold)
        if manifest and not cases_of(manifest, runs[fold]) and before != identity_in(content, fold):
            del runs[fold]  # nothing was added with the earlier settings, so nothing is lost
    earlier = {fold: identity_in(runs[fold].get("settings"), fold) for fold in folds if fold in runs}
    others = {fold: before for fold, before in earlier.items() if before != identity_in(content, fold)}
    if others:
        first = next(iter(others))
        now = identity_in(content, first)
        more, why = _what_else_goes(raw, method, others, now)
        raise BadInput(
            f"{raw.name} already holds synthetic cases of method {method} for fold {', '.join(map(str, others))}, made "
            f"with other settings (see {raw.folder / 'difflung_manifest.json'}{_differences(others[first], now)}); "
            f"run difflung_remove -d {quoted(raw.name)} -f {quoted(*map(str, others))} --method {method}{more} "
            f"first{why}, or use the earlier settings"
        )
    return [fold for fold in folds if fold not in runs]


def _what_else_goes(raw: RawDataset, method: str, others: Mapping[int | str, Any], now: dict) -> tuple[str, str]:
    """What has to go with the cases of other settings, and why: the folds' generators where these have them too.

    While they are there a fold would be refused again, after its cases had been deleted.

    Args:
        raw: the dataset.
        method: of the cases.
        others: fold → identity of the settings that its cases were made with.
        now: identity of the present settings.
    """
    trained = METHODS[method].trained.name
    outdated = [
        folder
        for fold, before in others.items()
        if METHODS[method].generator and _is_outdated(folder := fold_folder(raw.name, trained, fold), before, now)
    ]
    if not outdated:
        return "", ""
    why = f" (generators of {counted(len(outdated), 'fold')} have other settings too and are trained again)"
    if trained == method and len(outdated) == len(others):
        return " --generators", why
    return f" and delete {', '.join(map(str, outdated))}", why


def _is_outdated(folder: Path, before: Any, now: dict) -> bool:
    """Whether a folder holds a generator that cannot have the present settings.

    Args:
        folder: of the generator.
        before: identity of the settings that the fold's cases were made with.
        now: identity of the present settings.
    """
    if not (folder / CARD).is_file():
        return False
    if not isinstance(before, dict) or not isinstance(before.get("generator"), dict):
        return True
    earlier, present = before["generator"], now["generator"]
    own = generator_identity(read_card(folder).get("config", {}))
    other = [key for key in {*earlier, *present} if earlier.get(key) != present.get(key)]
    return any(own.get(key) != present.get(key) for key in other)


def warn_of_other_folds(raw: RawDataset, manifest: dict | None, folds: Sequence[int | str], settings: Settings) -> None:
    """Warns if synthetic cases of other folds, which are not requested now, were made with other settings."""
    for run in manifest["runs"] if manifest else ():
        if manifest and not cases_of(manifest, run):
            continue
        before, now = (identity_in(content, run["fold"]) for content in (run.get("settings"), settings.as_dict()))
        if run["method"] == settings.method and run["fold"] not in folds and before != now:
            warn(
                f"fold {run['fold']} of {raw.name} has {run['method']} cases that were made with other "
                f"settings{_differences(before, now)}; folds to be compared or averaged should have the same settings"
            )


def _differences(before: object, now: dict) -> str:
    """Up to four settings that differ, with the earlier and the present value."""
    lines = differences(before, now)
    return "".join(f"; {line}" for line in lines[:4] + (["…"] if len(lines) > 4 else []))


@contextmanager
def begun_here(folder: Path, raw: Path | None = None) -> Iterator[Callable[[], None]]:
    """Marks a cache as in use, and makes it if it is missing.

    Args:
        folder: of the cache.
        raw: the raw dataset's folder; if there are no results of the dataset yet, their folder is made like it.

    Yields:
        a function that deletes the cache if it was made here and no other command uses it; it also deletes the
        dataset's results folder if that was made here and is empty.
    """
    new = [path for path in (folder, folder.parent) if not path.exists()]
    if raw is not None and folder.parent in new:
        with suppress(FileExistsError):  # another process has just made it
            make_folder(folder.parent, raw)
    with using(folder) as delete_if_alone:

        def delete() -> None:
            if folder in new and delete_if_alone() and folder.parent in new:
                with suppress(OSError):  # not empty: it holds files of another method or command
                    folder.parent.rmdir()

        yield delete


@contextmanager
def nothing_left_on_fault(delete: Callable[[], None]) -> Iterator[None]:
    """Calls ``delete`` if the block ends with ``BadInput``."""
    try:
        yield
    except BadInput:
        delete()
        raise


def refuse_undertrained(fold: Fold, result: SynthesisResult, folds: Sequence[int | str]) -> None:
    """Stops the run if more than half of a fold's cases were dropped; bad cases in a dataset are worse than none.

    Placebo cases do not count: they cannot make up for lesions that were painted badly. Neither do cases that a reader
    has excluded.

    Args:
        fold: the fold.
        result: its cases.
        folds: all folds of the run, whose generators have been trained with the same settings.

    Raises:
        Failed: says why the cases were dropped and what to do.
    """
    kept = sum(not case.record.get("placebo") for case in result.staged)
    refused = [row for row in result.dropped.values() if row.get("excluded") and "placebo_quality" not in row]
    planned = len(fold.plan.with_lesions) - len(refused)
    if kept >= 0.5 * planned:
        return
    raise Failed(_why_dropped(fold, result, folds, f"{planned - kept} of {planned} cases"))


def _why_dropped(fold: Fold, result: SynthesisResult, folds: Sequence[int | str], dropped: str) -> str:
    """What dropped most cases of a fold, and what to do; ``dropped`` says how many."""
    by_gate, rows = fold.settings.sampling.gate == "drop", result.dropped_with_lesions()
    failing = sum(by_gate and not passes(row["quality"]) for row in rows)
    unknown = sum(not recognised(row) for row in rows)
    longer = f"Look at {fold.folder / 'samples'}; {_trained_again(fold, folds, 'more')}"
    if unknown > failing and unknown >= 0.5 * len(rows):
        return (
            f"fold {fold.number}: {dropped} were dropped, of which the segmenter does not recognise {unknown}: the "
            f"generator is under-trained; nothing was injected. {longer}, or leave out --candidates"
        )
    if failing < 0.5 * len(rows):
        other = f"{_trained_again(fold, folds, 'fewer')}, add patients" if fold.method.generator else "add patients"
        return (
            f"fold {fold.number}: {dropped} resemble training slices too closely; nothing was injected. Either "
            f"{other}, or inject them anyway with --memorised report"
        )
    figures = _figures(result, rows)
    if not fold.method.generator:
        return (
            f"fold {fold.number}: the gate dropped {dropped} ({figures}): the lesions of the training cases differ "
            f"too much from each other; nothing was injected. Inject them anyway with --gate report"
        )
    return (
        f"fold {fold.number}: the gate dropped {dropped} ({figures}): the generator is under-trained; nothing was "
        f"injected. {longer}, or inject them anyway with --gate report"
    )


def _trained_again(fold: Fold, folds: Sequence[int | str], epochs: str) -> str:
    """How to train the generators of all folds of the run again; one alone would have other settings than the rest."""
    trained = fold.method.trained.name
    if trained == fold.method.name:
        name, numbers = quoted(fold.raw.name), " ".join(map(str, folds))
        removed = f"run difflung_remove -d {name} -f {numbers} --method {trained} --generators"
    else:  # the command would also remove that method's own cases
        removed = f"delete {', '.join(str(fold_folder(fold.raw.name, trained, number)) for number in folds)}"
    return f"{removed}, then train with {epochs} --epochs than {fold.settings.generator.epochs}"


def _figures(result: SynthesisResult, dropped: Sequence[dict]) -> str:
    """Bias and distance of each class, and in how many of the dropped cases the channels do not fit each other."""
    figures = ", ".join(
        f"{name} bias {row['bias']:+.3g}, distance {row['wasserstein']:.3g}"
        for name, row in result.quality_of_all.items()
    )
    misfits = sum(
        any(not pair["passes"] for of_class in row["quality"].values() for pair in of_class.get("pairs", ()))
        for row in dropped
    )
    return figures + (
        f"; in {misfits} of them the channels do not fit each other as in real lesions" if misfits else ""
    )
