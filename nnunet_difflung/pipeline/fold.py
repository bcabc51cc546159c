"""The stages of one fold, each of which sees that fold's training cases and no others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from nnunet_difflung.config import Settings
from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.dataset.channels import CaseChannels, find_relations
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.checkpoint import check_readable
from nnunet_difflung.generator.families import trained_family_of
from nnunet_difflung.generator.store import check_weights, load_generator, record_files
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.generator.training import (
    FoldData,
    check_generator_folder,
    has_unknown_spacing,
    resolve,
    spacing_of,
    train_generator,
)
from nnunet_difflung.judging.continuity import continuity_reference
from nnunet_difflung.judging.gate import reference
from nnunet_difflung.judging.memorisation import real_to_real
from nnunet_difflung.judging.placebo_gate import lung_reference
from nnunet_difflung.judging.seam import real_seams
from nnunet_difflung.judging.selection import Selection
from nnunet_difflung.lesions.balance import collect_lesions, make_plan
from nnunet_difflung.lesions.contact import LungContact
from nnunet_difflung.lesions.masks import Lesion
from nnunet_difflung.lesions.placebo import add_placebos
from nnunet_difflung.lesions.plan import Plan
from nnunet_difflung.methods import METHODS
from nnunet_difflung.painting.attempt import check_painted, discard_broken
from nnunet_difflung.painting.cases import Synthesis, SynthesisResult
from nnunet_difflung.painting.synthesis import synthesize
from nnunet_difflung.preparing.application import paints_together
from nnunet_difflung.preparing.fold import Fold
from nnunet_difflung.preparing.stacks import depth_of_margin, with_margin
from nnunet_difflung.runtime.files import write_bytes
from nnunet_difflung.runtime.messages import begins, note
from nnunet_difflung.runtime.progress import Tell, nobody, parts, told
from nnunet_difflung.runtime.share import Share
from nnunet_difflung.segmenter.store import check_segmenter_folder, is_finished, load_segmenters, train_segmenters

_OF_A_PLACEBO = 3.0  # planning one takes that many times as long as planning a case with lesions


def prepare_folds(
    raw: RawDataset,
    numbers: Sequence[int | str],
    settings: Settings,
    cache: SliceCache,
    contact: LungContact,
    lesions_of_cases: dict[str, list[Lesion]],
    visible: bool,
) -> list[Fold]:
    """``prepare_fold`` for several folds, with one progress bar if ``visible``; a case is looked at once for all."""
    channels: dict[str, CaseChannels] = {}
    with told("planning", visible) as tell:
        return [
            prepare_fold(
                raw,
                number,
                settings,
                cache,
                lesions_of_cases,
                contact=contact,
                channels_of_cases=channels,
                tell=of_fold,
            )
            for number, of_fold in zip(numbers, parts(tell, *[1.0] * len(numbers)), strict=True)
        ]


def prepare_fold(
    raw: RawDataset,
    number: int | str,
    settings: Settings,
    cache: SliceCache,
    lesions_of_cases: dict[str, list[Lesion]] | None = None,
    channels_of_cases: dict[str, CaseChannels] | None = None,
    contact: LungContact | None = None,
    tell: Tell = nobody,
) -> Fold:
    """Makes a fold's plan from its training cases and their lesions, and finds the relations between their channels.

    Args:
        raw: the dataset.
        number: index of the fold, or ``all``.
        settings: settings of the run.
        cache: the dataset's real cases.
        lesions_of_cases: case id → its lesions; filled here and shared by the folds of a run.
        channels_of_cases: case id → what holds between its channels; filled here and shared like ``lesions_of_cases``.
        contact: counts what the labels of the training cases border on.
        tell: gets the share of the work that is done.

    Raises:
        BadInput: the fold's training cases contain no normal lung or no pathology.
    """
    data = FoldData(cache, tuple(raw.channels), raw.name, number, tuple(raw.training_cases(number)))
    cases = {identifier: cache.facts[identifier] for identifier in data.training_cases}
    _check_classes(raw, number, list(cases.values()))
    finding, planning, adding, relating = parts(tell, *_weights(raw, settings, data.training_cases, lesions_of_cases))
    lesions = collect_lesions(data.training_cases, cases, raw.roles, cache.label, lesions_of_cases, contact, finding)
    facts = list(cases.values())
    plan = make_plan(facts, lesions, raw.roles, settings.balance, number, cache.label, planning)
    add_placebos(plan, facts, lesions, raw.roles, settings.balance, number, cache.label, adding)
    _add_margins(plan, settings, cases)
    relations = find_relations(cache, data.training_cases, channels_of_cases, relating)
    tell(1)
    return Fold(raw, data, settings, lesions, plan, relations)


def _weights(
    raw: RawDataset, settings: Settings, training: Sequence[str], known: dict[str, list[Lesion]] | None
) -> tuple[float, float, float, float]:
    """How long finding lesions, planning cases and placebos, and comparing channels take, relative to each other."""
    placebos = settings.balance.placebo / (1 - settings.balance.placebo)
    return float(not (known or {}).keys() >= set(training)), 1.0, _OF_A_PLACEBO * placebos, float(len(raw.channels) > 1)


def _add_margins(plan: Plan, settings: Settings, cases: dict[str, CaseFacts]) -> None:
    """Adds to the planned cases the slices above and below their lesions that are painted along with them."""
    for number, planned in enumerate(plan.cases):
        host = cases[planned.host]
        if paints_together(METHODS[settings.method], settings, host.shape):
            depth = depth_of_margin(settings.sampling.margin, host.spacing)
            slices = with_margin(planned.slices, depth, host.shape[0])
            plan.cases[number] = replace(planned, slices=slices)
            plan.in_margins += 0 if planned.placebo else len(slices) - len(planned.slices)


def _check_classes(raw: RawDataset, number: int | str, cases: list[CaseFacts]) -> None:
    roles = raw.roles
    for names, what in ((roles.normal, "normal lung"), (roles.pathologies, "pathology")):
        if not any(case.voxels(name) for case in cases for name in names):
            raise BadInput(
                f"{raw.name} fold {number}: its {len(cases)} training cases hold no {what} ({', '.join(names)}); "
                f"leave the fold out with -f, or correct the labels or splits_final.json"
            )


def synthesize_fold(
    fold: Fold, device: str, progress: bool = True, share: Share | None = None, threads: int = 1
) -> tuple[Synthesis, SynthesisResult]:
    """Paints the plan with the fold's generator; see ``synthesize`` for ``share`` and ``threads``."""
    begins(f"fold {fold.number}: painting")
    share = share or Share()
    visible, own_threads = progress and share.main, max(1, threads // share.number)
    generator = load_generator(fold.folder, device) if fold.method.generator else _without_network(fold)
    _tidy(fold, share)
    training, sampling = fold.data.training_cases, fold.settings.sampling
    windows, seed = generator.config.windows, fold.settings.balance.seed
    memory, references, lung, continuity, seams = None, {}, None, {}, {}
    if sampling.memorised != "off":
        memory = real_to_real(fold.cache, training, fold.raw.patients, windows, seed, visible, own_threads)
    if sampling.gate != "off":
        judged = fold.relations.painted() if fold.relations else None
        known = (fold.cache, training, fold.raw.patients)
        with told(f"fold {fold.number}: measuring real lesions", visible) as tell:
            of_classes, along_z, at_edges, of_lung = parts(tell, 3, 3, 3, 1 if fold.plan.placebos else 0)
            references = reference(*known, windows, seed, judged, of_classes)
            continuity = continuity_reference(*known, windows, along_z)
            seams = real_seams(*known, sampling, windows, at_edges)
            if fold.plan.placebos:
                lung = lung_reference(*known, windows, seed, judged, of_lung)
            tell(1.0)
    selection = _selection(fold, device, progress, share) if sampling.candidates > 1 else None
    synthesis = Synthesis(fold, generator, references, memory, device, selection, lung, continuity, seams)
    return synthesis, synthesize(synthesis, progress, share, threads)


def _tidy(fold: Fold, share: Share) -> None:
    """Deletes what was painted and cannot be used; several processes wait for the first one."""
    tidied = fold.work / "tidied" / share.token
    if share.main:
        fold.discard_outdated()
        discard_broken(fold)
        if share.number > 1:
            write_bytes(tidied, b"")
    share.wait_for([tidied])


def _selection(fold: Fold, device: str, progress: bool, share: Share) -> Selection:
    """Trains the fold's segmenter, unless a finished one exists; several processes wait for the first one."""
    data, config, folder, sampling = (
        fold.segmenter_data,
        fold.segmenter_config,
        fold.segmenter_folder,
        fold.settings.sampling,
    )
    if share.main:
        train_segmenters(data, config, folder, device, progress)
    share.wait_until(lambda: is_finished(folder))
    segmenters = load_segmenters(data, config, folder, device)
    return Selection(segmenters, data.patients, fold.raw.roles, sampling.candidates, sampling.selection)


def seconds_of_selection(done: Iterable[Synthesis]) -> dict[str, float]:
    """What selection took of the painting's time: training the segmenters, and judging candidates in this process."""
    of_folds = [synthesis.selection for synthesis in done if synthesis.selection]
    if not of_folds:
        return {}
    scoring = sum(sum(selection.scoring) for selection in of_folds)
    return {"segmenter": sum(selection.segmenters.seconds for selection in of_folds), "scoring": scoring}


def train_fold(fold: Fold, device: str, save_every: float) -> None:
    """Trains the generator that the method needs, unless a finished one with the same settings exists."""
    if fold.method.generator:
        begins(f"fold {fold.number}: training")
        train_generator(
            fold.data, fold.method.trained, fold.settings.generator, fold.folder, device, save_every=save_every
        )


def record_training_files(fold: Fold) -> None:
    """Records in the generator's card which files its training cases are in now, before its cases are injected."""
    if fold.method.generator:
        trained = fold.method.trained
        spacing = spacing_of(fold.data, trained, resolve(trained, fold.settings.generator, fold.data))
        record_files(fold.folder, fold.data.files(), spacing)


def check_fold(fold: Fold) -> None:
    """Refuses a fold whose folder holds a generator that cannot be used, or a method that cannot be trained here.

    Raises:
        BadInput: the generator or the segmenter has other settings or training data, or its weights were lost or
            changed; a checkpoint cannot be read; a newer version has painted cases of the fold; or the method needs a
            package that is not installed.
    """
    check_painted(fold)
    if fold.method.generator:
        trained_family_of(fold.method.trained).require()
        check_weights(fold.folder)
        check_readable(fold.folder)
        check_generator_folder(fold.data, fold.method.trained, fold.settings.generator, fold.folder)
    if fold.settings.sampling.candidates > 1:
        check_segmenter_folder(fold.segmenter_data, fold.segmenter_config, fold.segmenter_folder)


def check_folds(folds: Sequence[Fold]) -> None:
    """``check_fold`` for several folds; names all folders that are refused, so that they can be seen to at once.

    Raises:
        BadInput: the first fault, and the other folders with a fault.
    """
    faults: list[tuple[Fold, BadInput]] = []
    for fold in folds:
        try:
            check_fold(fold)
        except BadInput as fault:
            faults.append((fold, fault))
    if len(faults) == 1:
        raise faults[0][1]
    if faults:
        others = ", ".join(str(fold.folder) for fold, _ in faults[1:])
        raise BadInput(f"{faults[0][1]}; likewise refused: {others}") from faults[0][1]


def note_unknown_spacing(folds: Sequence[Fold]) -> None:
    """Notes which generators may have been trained on voxels of another size, since their cards do not say."""
    folders = [
        str(fold.folder)
        for fold in folds
        if fold.method.generator
        and has_unknown_spacing(fold.data, fold.method.trained, fold.settings.generator, fold.folder)
    ]
    if folders:
        note(
            f"{', '.join(folders)}: trained by an earlier version, which did not record how large the training cases' "
            f"voxels were (mm); if their headers were corrected since, delete that folder to train again"
        )


def _without_network(fold: Fold) -> Generator:
    """Stands in for the generator of a method without a network: intensity windows and size of crops."""
    config = resolve(fold.method, fold.settings.generator, fold.data)
    conditions, training = fold.raw.roles.conditions, fold.data.training_cases
    return Generator(torch.nn.Identity(), config, conditions, training, "", fold.folder)
