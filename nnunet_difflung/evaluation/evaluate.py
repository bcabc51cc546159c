"""Compares slices that generators paint from validation masks with the real slices (Table 1)."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import groupby
from pathlib import Path

import torch

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.dataset.cache import SliceCache, build_cache, hash_of_voxels
from nnunet_difflung.dataset.logs import keep_log
from nnunet_difflung.dataset.places import check_links
from nnunet_difflung.dataset.privacy import as_private_as
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.evaluation.compared_channel import OneChannel, compared_channel
from nnunet_difflung.evaluation.gathered import Gathered, gathered_slices
from nnunet_difflung.evaluation.grey_levels import GREY_LEVELS, windows_of_values
from nnunet_difflung.evaluation.image_metrics import PatientTally
from nnunet_difflung.evaluation.mask_painter import MaskPainter
from nnunet_difflung.evaluation.page import evaluation_page
from nnunet_difflung.evaluation.real_slices import RealSlice, Window, metric_window, real_slice, slices_with_lung
from nnunet_difflung.evaluation.references import reference_rows, training_reference
from nnunet_difflung.evaluation.sheet import Sheet, shown_planes
from nnunet_difflung.evaluation.table1 import make_table, markdown
from nnunet_difflung.generator.families import family_of
from nnunet_difflung.generator.store import CARD, check_weights, config_from_json, is_finished, load_generator
from nnunet_difflung.injection.commit import read_steadily
from nnunet_difflung.meaning.labels import described
from nnunet_difflung.methods import METHODS
from nnunet_difflung.pages.render import write_page
from nnunet_difflung.paths import cache_folder, dataset_folder, fold_folder, results_folder, table1_file
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import read_json, write_bytes, write_json
from nnunet_difflung.runtime.locks import using
from nnunet_difflung.runtime.parallel import bar
from nnunet_difflung.runtime.wording import quoted
from nnunet_difflung.runtime.writable import check_folders


@dataclass(frozen=True)
class Request:
    """A call of ``difflung_evaluate``.

    Attributes:
        dataset: id or name.
        folds: names of folds; empty for every fold of the split.
        methods: names of methods; empty for all methods with a finished generator in every fold.
        sampling: sampler, steps and batch size.
        preset: name of the preset that ``sampling`` starts from.
        samples: images painted from each mask.
        max_slices: maximum number of validation slices of a fold, evenly spaced; None for all.
        seed: seed of the noise.
        device: ``cpu``, ``cuda`` or ``mps``.
        processes: number of processes or threads that read cases.
        out: path of the JSON file; None for the default.
        normal_labels: names of normal lung's labels; without any they are found by their names.
        structure_labels: labels that are neither lung nor pathology.
        patient_pattern: regular expression whose first group is the patient of a case id; None if it is not given.
        patients_file: CSV or JSON file that says which cases belong to the same patient; None if it is not given.
        command: the command as typed, for the record.
        progress: show progress bars.
    """

    dataset: str
    folds: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    sampling: SamplingConfig = SamplingConfig(paint="full")
    preset: str = "default"
    samples: int = 4
    max_slices: int | None = None
    seed: int = 12345
    device: str = "cpu"
    processes: int = 2
    out: Path | None = None
    normal_labels: tuple[str, ...] = ()
    structure_labels: tuple[str, ...] = ()
    patient_pattern: str | None = None
    patients_file: Path | None = None
    command: str = "difflung_evaluate"
    progress: bool = True


def _quiet(line: str) -> None:
    """Prints nothing."""


def evaluate(request: Request, say: Callable[[str], None] = _quiet) -> list[Path]:
    """Compares the methods and writes JSON, Markdown and pictures.

    Args:
        request: what to compare.
        say: called with a line for each method that is left out, with the reason.

    Returns:
        the files written, the JSON file first and the Markdown file second.

    Raises:
        BadInput: a generator is not finished or does not fit the dataset, a fold has no validation slice with lung, or
            the results cannot be written; raised before anything is painted.
    """
    raw = read_steadily(
        dataset_folder(request.dataset),
        lambda: open_raw_dataset(
            request.dataset,
            request.normal_labels,
            request.structure_labels,
            request.patient_pattern,
            request.patients_file,
        ),
    )
    for line in (f"{raw.name}: {described(raw.roles)}", *raw.reading.lines(), raw.reading.origin()):
        say(line)
    out = request.out or table1_file(raw.name)
    check_links(raw.name, [], [cache_folder(raw.name), *([] if request.out else [out.parent])])
    check_folders([out.parent])
    folds = _folds(raw, request)
    methods = _methods(raw, folds, request, say)
    cards = {(m, fold): _card(raw, m, fold, request) for fold in folds for m in methods}
    configs = {fold: [config_from_json(cards[m, fold]["config"]) for m in methods] for fold in folds}
    with as_private_as(raw.folder, raw.files()):
        with using(cache_folder(raw.name)):
            cache = build_cache(raw, cache_folder(raw.name), request.processes, request.progress)
            _refuse_earlier_contents(raw, cache, cards)
            seen = compared_channel(raw, cache, folds)
            for line in seen.left_out:
                say(line)
            windows = {fold: metric_window(raw, configs[fold], seen.number) for fold in folds}
            windows, warning = windows_of_values(raw, cache, windows, configs, seen.number)
            if warning:
                say(warning)
            keep_log(raw.name)
            rows, sheet, gathered = _evaluate_folds(raw, seen, folds, methods, windows, cards, request)
        meta = _meta(raw, cards, windows, request, seen) | ({"unit": GREY_LEVELS} if warning else {})
        return _write(make_table(meta, rows), sheet, gathered, raw, request)


def _evaluate_folds(
    raw: RawDataset,
    cache: OneChannel,
    folds: list[int],
    methods: list[str],
    windows: dict[int, Window],
    cards: dict,
    request: Request,
) -> tuple[dict[str, list[dict]], Sheet, Gathered]:
    """Rows of each method and reference over all folds, the picture sheet, and what the page shows."""
    chosen = {fold: slices_with_lung(cache, raw.validation_cases(fold), request.max_slices) for fold in folds}
    for fold in folds:
        if not chosen[fold]:
            raise BadInput(
                f"fold {fold} of {raw.name} has no validation slice that shows lung; choose the other folds with -f"
            )
    everywhere = [place for fold in folds for place in chosen[fold]]
    sheet = Sheet(raw.roles, shown_planes(cache, everywhere))
    gathered = Gathered(raw.roles, windows[folds[0]], gathered_slices(cache, everywhere, raw.patients, len(methods)))
    rows: dict[str, list[dict]] = {}
    for fold in folds:
        of_fold = _evaluate_fold(raw, cache, fold, chosen[fold], methods, windows[fold], request, sheet, gathered)
        for name, of_patients in of_fold.items():
            seed = cards[name, fold]["config"]["seed"] if name in methods else None
            rows.setdefault(name, []).extend({"fold": fold, "seed": seed, **row} for row in of_patients)
    return rows, sheet, gathered


def _folds(raw: RawDataset, request: Request) -> list[int]:
    folds = raw.folds(request.folds)
    if "all" in folds:
        raise BadInput(
            "-f all: fold all trains on every case, so it has no validation slices; give numbers, such as -f 0 1"
        )
    return [int(fold) for fold in folds]


def _methods(raw: RawDataset, folds: Sequence[int], request: Request, say: Callable[[str], None]) -> list[str]:
    """The methods to compare; calls ``say`` for methods that are left out."""
    wanted = [METHODS[name] for name in request.methods or METHODS]
    changing = [method.name for method in wanted if not family_of(method).paints_whole_slices]
    if changing:
        say(f"Left out: {', '.join(changing)} (methods that change a real slice instead of painting a whole slice).")
    painting = [method.name for method in wanted if method.name not in changing]
    missing = {
        name: [fold for fold in folds if not is_finished(fold_folder(raw.name, name, fold))] for name in painting
    }
    finished = [name for name in painting if not missing[name]]
    for name in painting:
        if missing[name] and (request.methods or not finished):
            where = " ".join(map(str, missing[name]))
            raise BadInput(
                f"{results_folder(raw.name, name)} has no finished generator of fold {where}; train it "
                f"with difflung_augment -d {quoted(request.dataset)} -f {where} --method {name}"
            )
        if len(folds) > len(missing[name]) > 0:
            say(f"Left out: {name} (no finished generator in fold {', '.join(map(str, missing[name]))}).")
    if not finished:
        raise BadInput(
            f"none of --methods {' '.join(request.methods)} paints whole slices; choose from "
            f"{', '.join(m.name for m in METHODS.values() if family_of(m).paints_whole_slices)}"
        )
    return finished


def _card(raw: RawDataset, method: str, fold: int, request: Request) -> dict:
    """A generator's card, after checking that it fits the dataset and was not trained on a validation patient."""
    folder = fold_folder(raw.name, method, fold)
    check_weights(folder)
    card = read_json(folder / CARD)
    if tuple(card["conditions"]) != raw.roles.conditions:
        raise BadInput(
            f"{folder} was trained on the classes {', '.join(card['conditions'])}, expected "
            f"{', '.join(raw.roles.conditions)}; give --normal-label and --structure-label as in training"
        )
    held_out = {raw.patients[case] for case in raw.validation_cases(fold)}
    seen = sorted(case for case in card["training_cases"] if raw.patients.get(case) in held_out)
    if seen:
        raise BadInput(
            f"{folder} was trained on {seen[0]}, whose patient is in validation in fold {fold} "
            f"({len(seen)} such cases); delete the folder and train again with the present split"
        )
    gone = sorted(set(card["training_cases"]) - set(raw.cases))
    if gone:
        raise BadInput(
            f"{folder} was trained on {gone[0]}, which is not in the dataset any more ({len(gone)} such cases) and "
            f"may be in validation under another name; restore the case, or delete the folder and train again"
        )
    most = family_of(METHODS[method]).most_steps(config_from_json(card["config"]))
    if most is not None and request.sampling.steps > most:
        raise BadInput(
            f"--steps {request.sampling.steps} is more than the {most} timesteps that {folder} was trained with; give "
            f"fewer"
        )
    return card


def _refuse_earlier_contents(raw: RawDataset, cache: SliceCache, cards: dict[tuple[str, int], dict]) -> None:
    """Refuses generators whose training cases hold something else now, such as what was a validation case before."""
    for (method, fold), card in cards.items():
        if card.get("contents") not in (None, hash_of_voxels(cache, card["training_cases"])):
            folder = fold_folder(raw.name, method, fold)
            raise BadInput(
                f"files of the training cases of {folder} were changed after it was trained, so what it has seen may "
                f"be in validation now; restore them, or delete the folder and train again"
            )


def _evaluate_fold(
    raw: RawDataset,
    cache: OneChannel,
    fold: int,
    chosen: list[tuple[str, int]],
    methods: Sequence[str],
    window: Window,
    request: Request,
    sheet: Sheet,
    gathered: Gathered,
) -> dict[str, list[dict]]:
    """Method or reference → rows of the fold's patients. Only one patient's slices are in memory at a time."""
    training = training_reference(raw, cache, fold, window)
    by_patient = {
        patient: list(places)
        for patient, places in groupby(
            sorted(chosen, key=lambda p: (raw.patients[p[0]], p)), key=lambda p: raw.patients[p[0]]
        )
    }

    def load(places: Sequence[tuple[str, int]]) -> list[RealSlice]:
        return [real_slice(raw, cache, *place, window) for place in places]

    rows: dict[str, list[dict]] = {}
    for name in methods:
        generator = load_generator(fold_folder(raw.name, name, fold), request.device)
        painter = MaskPainter(
            METHODS[name],
            generator,
            request.sampling,
            raw.roles.condition_values(),
            window,
            request.samples,
            request.seed,
            fold,
            cache.number,
        )
        with bar(total=len(chosen), desc=f"fold {fold}: {name}", unit="slice", visible=request.progress) as shown:
            for patient, places in by_patient.items():
                tally = PatientTally(raw.roles, window, training.scales)
                for true, painted, seconds in painter.paint(load(places)):
                    tally.add(true, painted, seconds)
                    sheet.offer(true, window, name, painted[0])
                    gathered.offer(true, name, painted)
                    shown.update()
                rows.setdefault(name, []).append({"patient": patient, **tally.row()})
    for patient, places in bar(by_patient.items(), desc=f"fold {fold}: references", visible=request.progress):
        for name, row in reference_rows(raw, cache, load(places), training, window).items():
            rows.setdefault(name, []).append({"patient": patient, **row})
    return rows


def _meta(
    raw: RawDataset,
    cards: dict[tuple[str, int], dict],
    windows: dict[int, Window],
    request: Request,
    seen: OneChannel,
) -> dict:
    """How the figures were made; ``make_table`` adds what it computes from the rows."""
    name = torch.cuda.get_device_name() if request.device == "cuda" else f"{torch.get_num_threads()} CPU thread(s)"
    return {
        "command": request.command,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "dataset": raw.name,
        "unit": "HU" if raw.channels[seen.number].upper() == "CT" else GREY_LEVELS,
        "channel": raw.channels[seen.number],
        **({"left_out": seen.left_out} if seen.left_out else {}),
        "windows": {str(fold): list(window) for fold, window in windows.items()},
        "samples": request.samples,
        "max_slices": request.max_slices,
        "noise_seeds": [request.seed],
        "sampling": f"sampler {request.sampling.sampler}, {request.sampling.steps} steps, "
        f"{request.sampling.batch_size} images at once, {request.sampling.precision} (preset "
        f"{request.preset})",
        "versions": {**versions(), **{package: version(package) for package in ("scipy", "scikit-image")}},
        "device": name if request.device != "mps" else "mps",
        "machine": machine(),
        "generators": [
            {
                "method": m,
                "fold": fold,
                "seed": card["config"]["seed"],
                "iterations": card["total_steps"],
                "weights_sha256": card["weights_sha256"],
                "config": card["config"],
            }
            for (m, fold), card in cards.items()
        ],
    }


def _write(table: dict, sheet: Sheet, gathered: Gathered, raw: RawDataset, request: Request) -> list[Path]:
    out = request.out or table1_file(raw.name)
    write_json(out, table)
    write_bytes(out.with_suffix(".md"), markdown(table).encode())
    write_page(evaluation_page(table, gathered, raw, sheet), out.with_suffix(".html"))
    written = [out, out.with_suffix(".md"), out.with_suffix(".html")]
    if sheet.write(out.with_suffix(".png"), raw):
        written.append(out.with_suffix(".png"))
    else:  # that of an earlier run does not belong to this table
        out.with_suffix(".png").unlink(missing_ok=True)
    return written
