"""The stages of one fold, each of which sees that fold's training cases and no others."""
from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from nnunet_difflung.balance import collect_lesions, make_plan
from nnunet_difflung.case_reading import CaseFacts
from nnunet_difflung.command_line import BadInput, nnunet_folder
from nnunet_difflung.config import GeneratorConfig, Settings
from nnunet_difflung.diffusion import build_network, size_factor
from nnunet_difflung.files import json_bytes
from nnunet_difflung.gate import reference
from nnunet_difflung.generator import Generator, load_generator
from nnunet_difflung.masks import Lesion
from nnunet_difflung.memorisation import real_to_real
from nnunet_difflung.methods import METHODS, Method
from nnunet_difflung.plan import HostFacts, Plan
from nnunet_difflung.processes import Share
from nnunet_difflung.raw_dataset import RawDataset
from nnunet_difflung.slices import SliceCache
from nnunet_difflung.staging import Synthesis, SynthesisResult, discard_work
from nnunet_difflung.synthesize import synthesize
from nnunet_difflung.train import FoldData, check_generator_folder, resolve, total_steps, train_generator


def results_folder(dataset: str, method: str) -> Path:
    """``$nnUNet_results/<dataset>/DiffLung__<method>``."""
    return Path(nnunet_folder("nnUNet_results")) / dataset / f"DiffLung__{method}"


def cache_folder(dataset: str) -> Path:
    """Cached slices of a dataset, shared by folds and methods."""
    return Path(nnunet_folder("nnUNet_results")) / dataset / "DiffLung__cache"


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
        return METHODS[self.settings.generator.method]

    @property
    def folder(self) -> Path:
        """The folder of the generator that paints (of a method without one: where its cases are made)."""
        return results_folder(self.raw.name, self.method.generator or self.method.name) / f"fold_{self.fold}"

    @property
    def own_folder(self) -> Path:
        """The folder of the method's own fold; that of the generator unless it borrows another method's."""
        return results_folder(self.raw.name, self.method.name) / f"fold_{self.fold}"

    @property
    def config(self) -> GeneratorConfig:
        """Of the generator that paints."""
        return replace(self.settings.generator, method=self.method.generator or self.method.name)

    @property
    def work(self) -> Path:
        """Painted slices and staged cases until they are injected; another for other training cases or another plan."""
        depends = [self.content, [case.as_record() for case in self.plan.cases]]
        return self.own_folder / f"{self._works}_{hashlib.sha256(json_bytes(depends)).hexdigest()[:12]}"

    @property
    def _works(self) -> str:
        return f"synthesis_{self.settings.hash()}"

    def discard_outdated(self) -> None:
        """Deletes what was painted with these settings for other training cases or another plan."""
        current = self.work
        for path in self.own_folder.glob(f"{self._works}*"):
            if path != current:
                discard_work(path)

    def data(self, cache: SliceCache) -> FoldData:
        """What the generator may see."""
        return FoldData(cache, tuple(self.raw.channels), self.raw.name, self.fold,
                        tuple(self.raw.training_cases(self.fold)))


def prepare_fold(raw: RawDataset, fold: int | str, settings: Settings, facts: dict[str, CaseFacts],
                 read_label: Callable[[str], np.ndarray], known: dict[str, list[Lesion]]) -> FoldWork:
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
            raise BadInput(f"{raw.name} fold {fold}: its {len(hosts)} training cases hold no {what} "
                           f"({name or ', '.join(roles.pathologies)}); leave the fold out with -f, or correct the "
                           f"labels or splits_final.json")
    lesions = collect_lesions(identifiers, hosts, roles, read_label, known)
    plan = make_plan(list(hosts.values()), lesions, roles, settings.balance, fold, read_label)
    return FoldWork(raw, fold, settings, hosts, lesions, plan, {i: facts[i].content for i in identifiers})


def synthesize_fold(work: FoldWork, cache: SliceCache, device: str, progress: bool = True,
                    share: Share | None = None, threads: int = 1) -> tuple[Synthesis, SynthesisResult]:
    """Paints the plan with the fold's generator; ``share`` and ``threads`` as of ``synthesize``."""
    if share is None or share.main:
        work.discard_outdated()
    generator = load_generator(work.folder, device) if work.method.generator else without_network(work, cache)
    training = work.raw.training_cases(work.fold)
    windows, seed = generator.config.windows, work.settings.balance.seed
    memory = None if work.settings.sampling.memorised == "off" else real_to_real(
        cache, training, work.raw.patients, windows, seed)
    references = {} if work.settings.sampling.gate == "off" else reference(
        cache, training, windows, seed)
    synthesis = Synthesis(work.raw, cache, work.plan, work.lesions, work.facts, generator, references,
                          work.settings.sampling, work.method.name, work.fold, work.work, device, memory)
    return synthesis, synthesize(synthesis, progress, share, threads)


def train_fold(work: FoldWork, cache: SliceCache, device: str, save_every: float) -> None:
    """Trains the generator that the method needs; an existing one of the same settings is taken."""
    if work.method.generator:
        train_generator(work.data(cache), work.config, work.folder, device, save_every=save_every)


def check_fold(work: FoldWork, cache: SliceCache) -> None:
    """Refuses a folder with a generator of other settings.

    Raises:
        BadInput: there is one.
    """
    if work.method.generator:
        check_generator_folder(work.data(cache), work.config, work.folder)


def without_network(work: FoldWork, cache: SliceCache) -> Generator:
    """What painting asks of a generator (windows, size of crops), for a method that has none."""
    data = work.data(cache)
    return Generator(None, resolve(work.config, data), work.raw.roles.conditions, data.training_cases, "", work.folder)


def estimate_seconds(work: FoldWork, facts: dict[str, CaseFacts], device: str) -> tuple[float, float]:
    """Estimated seconds of training and painting, from one timed pass of a diffusion network on the real device.

    A GAN takes about three times as long to train as a diffusion network of its widths, and paints in one pass.
    """
    if work.method.family == "copy":
        return 0.0, 0.1 * work.plan.slices
    config, gan = work.settings.generator, work.method.family == "gan"
    largest = max(max(facts[i].shape[1:]) for i in work.facts)
    factor = size_factor(config)
    edge = -(-min(config.patch_size or largest, largest) // factor) * factor
    channels = len(work.raw.channels)
    network = build_network(config, channels, len(work.raw.roles.conditions)).to(device)
    inputs = channels + len(work.raw.roles.conditions)
    for batch in (1, config.batch_size, config.batch_size):  # the first passes of a shape set things up
        begun = time.perf_counter()
        loss = network(torch.zeros(batch, inputs, edge, edge, device=device),
                       torch.zeros(batch, dtype=torch.long, device=device)).sample.square().mean()
        loss.item()  # waits for the device
        forward = (time.perf_counter() - begun) / batch
        loss.backward()
        next(network.parameters()).grad.sum().item()
        seconds = {"forward": forward, "both": (time.perf_counter() - begun) / batch}
        if seconds["both"] > 2:  # a whole batch would take long to try
            break
    slices = sum(host.lung_slices for host in work.facts.values())
    training = total_steps(config, slices) * config.batch_size * seconds["both"] * (3 if gan else 1)
    area = 1.0 if work.settings.sampling.paint == "composite" else (largest / edge) ** 2
    return training, work.plan.slices * (1 if gan else work.settings.sampling.steps) * seconds["forward"] * area


def estimate_bytes(work: FoldWork, facts: dict[str, CaseFacts]) -> tuple[int, int]:
    """Upper bounds of bytes needed in nnUNet_raw, and in nnUNet_results while painting."""
    voxels = [np.prod(facts[case.host].shape) for case in work.plan.cases]
    planes = [len(case.slices) * np.prod(facts[case.host].shape[1:]) for case in work.plan.cases]
    channels = len(work.raw.channels)
    cases = int(sum(voxels)) * (4 * channels + 2)
    return cases, cases + int(sum(planes)) * 4 * channels
