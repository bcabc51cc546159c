"""The stages of one fold, each of which sees that fold's training cases and no others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_difflung.config import Settings
from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.store import load_generator
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.generator.training import FoldData, check_generator_folder, resolve, train_generator
from nnunet_difflung.lesions.balance import collect_lesions, make_plan
from nnunet_difflung.lesions.masks import Lesion
from nnunet_difflung.lesions.plan import HostFacts, Plan
from nnunet_difflung.methods import METHODS, Method
from nnunet_difflung.painting.cases import Synthesis, SynthesisResult, discard_work
from nnunet_difflung.painting.gate import reference
from nnunet_difflung.painting.memorisation import real_to_real
from nnunet_difflung.painting.synthesis import synthesize
from nnunet_difflung.paths import fold_folder
from nnunet_difflung.runtime.files import json_bytes
from nnunet_difflung.runtime.share import Share


@dataclass(frozen=True)
class FoldWork:
    """A fold, what its training cases hold, and the plan for it; ``content``: case → hash of image and labels."""

    raw: RawDataset
    fold: int | str
    settings: Settings
    facts: dict[str, HostFacts]
    lesions: dict[str, list[Lesion]]
    plan: Plan
    content: dict[str, str]

    @property
    def method(self) -> Method:
        """How the cases are made."""
        return METHODS[self.settings.method]

    @property
    def folder(self) -> Path:
        """The folder of the generator that paints (of a method without one: where its cases are made)."""
        return fold_folder(self.raw.name, self.method.trained.name, self.fold)

    @property
    def own_folder(self) -> Path:
        """The folder of the method's own fold; that of the generator unless it borrows another method's."""
        return fold_folder(self.raw.name, self.method.name, self.fold)

    @property
    def work(self) -> Path:
        """Painted slices and staged cases until they are injected; another for other training cases or another plan."""
        depends = [self.content, [case.as_record() for case in self.plan.cases]]
        content = hashlib.sha256(json_bytes(depends)).hexdigest()[:12]
        folders = [self.own_folder / f"{works}_{content}" for works in self._works]
        return next((folder for folder in folders if folder.is_dir()), folders[0])

    @property
    def _works(self) -> list[str]:
        return [f"synthesis_{name}" for name in (self.settings.hash(), *self.settings.former_hashes())]

    def discard_outdated(self) -> None:
        """Deletes what was painted with these settings for other training cases or another plan."""
        current = self.work
        for path in {path for works in self._works for path in self.own_folder.glob(f"{works}*")} - {current}:
            discard_work(path)

    def data(self, cache: SliceCache) -> FoldData:
        """What the generator may see."""
        return FoldData(
            cache, tuple(self.raw.channels), self.raw.name, self.fold, tuple(self.raw.training_cases(self.fold))
        )


def prepare_fold(
    raw: RawDataset,
    fold: int | str,
    settings: Settings,
    facts: dict[str, CaseFacts],
    read_label: Callable[[str], np.ndarray],
    known: dict[str, list[Lesion]],
) -> FoldWork:
    """Counts classes over the fold's training cases, collects lesions, and plans.

    ``known`` keeps each case's lesions for the other folds that train on it.

    Raises:
        BadInput: no normal lung or no pathology among the fold's training cases.
    """
    roles, identifiers = raw.roles, raw.training_cases(fold)
    hosts = {}
    for i in identifiers:
        case = facts[i]
        lung = np.sum([case.counts[name] for name in roles.lung], axis=0) > 0
        hosts[i] = HostFacts(i, case.spacing, {name: case.voxels(name) for name in roles.values}, int(lung.sum()))
    for name, what in ((roles.normal, "normal lung"), (None, "pathology")):
        if not any(host.voxels[n] for host in hosts.values() for n in ([name] if name else roles.pathologies)):
            raise BadInput(
                f"{raw.name} fold {fold}: its {len(hosts)} training cases hold no {what} "
                f"({name or ', '.join(roles.pathologies)}); leave the fold out with -f, or correct the "
                f"labels or splits_final.json"
            )
    lesions = collect_lesions(identifiers, hosts, roles, read_label, known)
    plan = make_plan(list(hosts.values()), lesions, roles, settings.balance, fold, read_label)
    return FoldWork(raw, fold, settings, hosts, lesions, plan, {i: facts[i].content for i in identifiers})


def synthesize_fold(
    work: FoldWork, cache: SliceCache, device: str, progress: bool = True, share: Share | None = None, threads: int = 1
) -> tuple[Synthesis, SynthesisResult]:
    """Paints the plan with the fold's generator; ``share`` and ``threads`` as of ``synthesize``."""
    if share is None or share.main:
        work.discard_outdated()
    generator = load_generator(work.folder, device) if work.method.generator else without_network(work, cache)
    training = work.raw.training_cases(work.fold)
    windows, seed = generator.config.windows, work.settings.balance.seed
    memory = (
        None
        if work.settings.sampling.memorised == "off"
        else real_to_real(cache, training, work.raw.patients, windows, seed)
    )
    references = {} if work.settings.sampling.gate == "off" else reference(cache, training, windows, seed)
    synthesis = Synthesis(
        work.raw,
        cache,
        work.plan,
        work.lesions,
        work.facts,
        generator,
        references,
        work.settings.sampling,
        work.method.name,
        work.fold,
        work.work,
        device,
        memory,
    )
    return synthesis, synthesize(synthesis, progress, share, threads)


def train_fold(work: FoldWork, cache: SliceCache, device: str, save_every: float) -> None:
    """Trains the generator that the method needs; an existing one of the same settings is taken."""
    if work.method.generator:
        train_generator(
            work.data(cache), work.method.trained, work.settings.generator, work.folder, device, save_every=save_every
        )


def check_fold(work: FoldWork, cache: SliceCache) -> None:
    """Refuses a folder with a generator of other settings.

    Raises:
        BadInput: there is one.
    """
    if work.method.generator:
        check_generator_folder(work.data(cache), work.method.trained, work.settings.generator, work.folder)


def without_network(work: FoldWork, cache: SliceCache) -> Generator:
    """What painting asks of a generator (windows, size of crops), for a method that has none."""
    data = work.data(cache)
    config = resolve(work.method, work.settings.generator, data)
    return Generator(None, config, work.raw.roles.conditions, data.training_cases, "", work.folder)
