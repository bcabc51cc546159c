"""Trains a fold's generator. A resumed training gives the same generator, bit for bit on one CPU process."""

from __future__ import annotations

import hashlib
import json
import math
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from nnunet_difflung.config import GeneratorConfig, differences, generator_identity, recorded
from nnunet_difflung.dataset.cache import SliceCache, SliceIndex, class_counts, hash_of_voxels, index_slices
from nnunet_difflung.dataset.contents import digest_of
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.ablation import ablatable, initial_probabilities
from nnunet_difflung.generator.along_z import correlation_length
from nnunet_difflung.generator.batches import BatchSource
from nnunet_difflung.generator.card import CARD, SPACING, TRAINING_FILES, read_card
from nnunet_difflung.generator.checkpoint import TrainingState, load_checkpoint, remove_checkpoints, save_checkpoint
from nnunet_difflung.generator.encoding import intensity_windows, size_factor
from nnunet_difflung.generator.families import family_of, trained_family_of
from nnunet_difflung.generator.families.interface import TrainedFamily, Update
from nnunet_difflung.generator.report import TrainingReport
from nnunet_difflung.generator.steps import over_processes, step_inputs, train_step
from nnunet_difflung.generator.store import is_finished, save_generator, write_card
from nnunet_difflung.methods import Method
from nnunet_difflung.runtime.device import ahead, steps_between_losses
from nnunet_difflung.runtime.files import json_bytes
from nnunet_difflung.runtime.launcher import let_device_change
from nnunet_difflung.runtime.parallel import bar
from nnunet_difflung.runtime.signals import Interruption


@dataclass(frozen=True)
class FoldData:
    """The data that a fold's generator may see: the fold's training cases and nothing else."""

    cache: SliceCache
    channels: tuple[str, ...]
    dataset: str
    fold: int | str
    training_cases: tuple[str, ...]

    @cached_property
    def correlation_mm(self) -> float:
        """See ``along_z.correlation_length``."""
        return correlation_length(self.cache, self.training_cases)

    def files(self) -> str | None:
        """One hash for the files of the training cases; None if they were not hashed."""
        return digest_of({i: self.cache.facts[i].files for i in self.training_cases}, self.training_cases)

    def frequencies(self, classes: Sequence[str] | None = None) -> np.ndarray:
        """f_i of Eq. 8: each class's share of the lung voxels, 0 for what lies outside the lung.

        Args:
            classes: names among the conditions; None: the pathologies.
        """
        counts = class_counts([self.cache.facts[i] for i in self.training_cases], self.cache.roles)
        names = self.cache.roles.pathologies if classes is None else classes
        return np.array([counts.get(name, 0) for name in names]) / max(1, sum(counts.values()))


def resolve(method: Method, config: GeneratorConfig, data: FoldData) -> GeneratorConfig:
    """Fills in the settings that depend on the data: intensity windows, and a patch size that fits network and slices.

    Settings that the method does not use get their default, so that they cannot make equal generators look different.
    """
    family, default = family_of(method), GeneratorConfig()
    if isinstance(family, TrainedFamily):
        config = replace(config, **{name: getattr(default, name) for name in family.unused_settings})
    factor = size_factor(config)
    largest = max(max(data.cache.facts[i].shape[1:]) for i in data.training_cases)
    patch = min(config.patch_size or largest, largest)
    windows = intensity_windows(data.cache, data.training_cases, data.channels, config.windows)
    neighbours = neighbours_of(method, config, data)
    length = data.correlation_mm if neighbours else None
    return replace(
        config,
        patch_size=math.ceil(patch / factor) * factor,
        windows=windows,
        neighbours=neighbours,
        correlation_mm=length,
    )


def neighbours_of(method: Method, config: GeneratorConfig, data: FoldData) -> int | None:
    """1 if the network is to see the slices beside the one that it paints; else None, for methods and cases without."""
    volumes = any(data.cache.facts[i].shape[0] > 1 for i in data.training_cases)
    return 1 if volumes and family_of(method.trained).uses_neighbours and config.neighbours != 0 else None


def spacing_of(data: FoldData, method: Method, config: GeneratorConfig) -> list[list[float]] | None:
    """Size in mm of the training cases' voxels, as far as a training depends on it; None if it does not.

    A network that fills regions is trained on outlines in mm: (y, x), and (z, y, x) if it sees neighbouring slices.

    Args:
        data: the training cases.
        method: the method that is trained.
        config: its resolved settings.
    """
    if not trained_family_of(method).source.reads_spacing:
        return None
    first = 0 if config.neighbours else 1
    return [[round(float(mm), 4) for mm in data.cache.facts[i].spacing[first:]] for i in data.training_cases]


def has_unknown_spacing(data: FoldData, method: Method, config: GeneratorConfig, folder: Path) -> bool:
    """Whether nobody knows if the generator in ``folder`` was trained on voxels of the present size.

    An earlier version trained it, did not record their size, and files of the training cases were written again since.
    """
    if not (folder / CARD).is_file():
        return False
    card, files = read_card(folder), data.files()
    same = SPACING not in card and files is not None and card.get(TRAINING_FILES) == files
    known = same or card.get(SPACING) is not None
    return not known and spacing_of(data, method, resolve(method, config, data)) is not None


def total_steps(config: GeneratorConfig, slices: int) -> int:
    """Training steps of all epochs."""
    return max(1, config.epochs * math.ceil(slices / config.batch_size))


def check_batch(method: Method, config: GeneratorConfig, processes: int) -> None:
    """Refuses a batch size that several processes cannot share evenly.

    Raises:
        BadInput: the batch size is not a multiple of the number of processes.
    """
    if method.generator and config.batch_size % processes:
        raise BadInput(
            f"--batch-size {config.batch_size} cannot be shared evenly by {processes} processes; choose a multiple"
        )


def train_generator(
    data: FoldData,
    method: Method,
    config: GeneratorConfig,
    folder: Path,
    device: str = "cpu",
    progress: bool = True,
    save_every: float = 60.0,
    stop_after: int | None = None,
) -> None:
    """Trains the generator in ``folder``, or resumes its training; returns at once if it is finished.

    Args:
        data: the fold's training cases.
        method: a method that trains a generator.
        config: settings of the generator; resolved here.
        folder: ``…/DiffLung__<method>/fold_<K>``.
        device: ``cpu``, ``cuda`` or ``mps``.
        progress: show a progress bar, and write ``progress.png`` and sample sheets.
        save_every: seconds between checkpoints.
        stop_after: write a checkpoint at this step and stop (for tests).

    Raises:
        BadInput: ``folder`` holds a generator with other settings or training data, the processes cannot share the
            batch evenly, or the method needs a package that is not installed.
    """
    family = trained_family_of(method)
    family.require()
    config, index, card, settings = check_generator_folder(data, method, config, folder)
    if is_finished(folder):
        return
    card[TRAINING_FILES] = data.files()
    let_device_change(device)
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")  # its precision is the whole process's
    check_batch(method, config, accelerator.num_processes)
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_card(folder, method, config, {**card, "settings": settings, "finished": False})
    state = family.new_state(config, len(data.channels), len(data.cache.roles.conditions), accelerator.device)
    update = family.make_update(state, config, accelerator, card["total_steps"])  # before restoring: moves states
    note = load_checkpoint(state, folder, settings)
    report = TrainingReport(
        folder,
        card["total_steps"],
        method,
        config,
        progress,
        accelerator.is_main_process,
        steps_between_losses(accelerator.device),
    )
    report.resume(state.step)
    if note:
        report.say(note)
    source = _source(data, method, index, config, card["total_steps"])
    saving = _Saving(folder, settings, save_every, stop_after)
    _loop(state, update, source, accelerator, report, saving, f"fold {data.fold}: training generator")
    if accelerator.is_main_process and state.step >= card["total_steps"]:
        state.ema.copy_to(accelerator.unwrap_model(state.network).parameters())
        network = accelerator.unwrap_model(state.network)
        save_generator(folder, network, {**card, "settings": settings}, method, config)
        remove_checkpoints(folder)
    accelerator.wait_for_everyone()
    accelerator.free_memory()


def _card(data: FoldData, method: Method, config: GeneratorConfig, index: SliceIndex) -> dict:
    roles, spacing = data.cache.roles, spacing_of(data, method, config)
    return {
        "dataset": data.dataset,
        "fold": data.fold,
        "training_cases": list(data.training_cases),
        "training_slices": len(index),
        "channels": list(data.channels),
        "conditions": list(roles.conditions),
        "frequencies": dict(zip(roles.pathologies, data.frequencies().tolist(), strict=True)),
        "total_steps": total_steps(config, len(index)),
        "contents": hash_of_voxels(data.cache, data.training_cases),
        **({} if spacing is None else {SPACING: spacing}),
    }


def check_generator_folder(
    data: FoldData, method: Method, config: GeneratorConfig, folder: Path
) -> tuple[GeneratorConfig, SliceIndex, dict, str]:
    """Resolves the settings and checks that a generator in ``folder``, if there is one, has the same settings and data.

    Returns:
        The resolved configuration, the slices, the card, and the hash that checkpoints have to match. It is a hash of
        everything that the weights depend on, or the hash in the card of the generator in ``folder``, which an earlier
        version may have computed differently.

    Raises:
        BadInput: ``folder`` holds a generator with other settings or other training data.
    """
    config = resolve(method, config, data)
    index = index_slices(data.cache, data.training_cases)
    card = _card(data, method, config, index)
    now = generator_identity(recorded(method.name, config))
    settings = hashlib.sha256(json_bytes([now, card])).hexdigest()
    if (folder / CARD).is_file():
        existing = read_card(folder)
        _refuse_another(folder, existing, json.loads(json_bytes({"config": now, **card})))
        settings = existing.get("settings", settings)
    return config, index, card, settings


def _refuse_another(folder: Path, existing: dict, wanted: dict) -> None:
    """Refuses a generator whose card differs from the card of the wanted generator.

    The size of the voxels is not compared with a card of an earlier version, which does not say it.
    """
    config = generator_identity(existing.get("config", {}))
    content = {**existing, "config": config}
    unsaid = (SPACING,) if existing.get(SPACING) is None else ()
    different = [key for key, value in wanted.items() if key not in unsaid and content.get(key) != value]
    if not different:
        return
    named = differences(config, wanted["config"]) or [f"other {key.replace('_', ' ')}" for key in different]
    raise BadInput(
        f"{folder} holds a generator with other settings or other training data ({'; '.join(named[:4])}); use the "
        f"earlier settings and data, or delete that folder to train again"
    )


@dataclass(frozen=True)
class _Saving:
    folder: Path
    settings: str
    every: float
    stop_after: int | None


def _source(data: FoldData, method: Method, index: SliceIndex, config: GeneratorConfig, total: int) -> BatchSource:
    reading, delta_0 = config.ablation_probability, config.delta_0
    roles, classes = data.cache.roles, ablatable(data.cache.roles, method.ablation, config.ablated_classes)
    normal = float(data.frequencies(roles.normal).sum()) if set(roles.normal) <= set(classes) else None
    probabilities = initial_probabilities(data.frequencies(classes), method.ablation, reading, delta_0, normal)
    kind = trained_family_of(method).source
    return kind(data.cache, index, config, config.windows, probabilities, total, method.ablation)


def _loop(
    state: TrainingState,
    update: Update,
    source: BatchSource,
    accelerator: Accelerator,
    report: TrainingReport,
    saving: _Saving,
    title: str,
) -> None:
    total, config, saved, losses = source.total_steps, source.config, time.monotonic(), []
    slots = list(range(accelerator.process_index, config.batch_size, accelerator.num_processes))
    end = min(total, saving.stop_after or total)
    shown = bar(
        total=total,
        initial=state.step,
        desc=title,
        unit="step",
        visible=report.visible and report.writes,
    )
    batches = ahead(lambda step: step_inputs(source, step, slots), range(state.step, end), accelerator.device)
    with Interruption(impatient=True) as interruption, shown, batches as inputs:
        while state.step < end:
            losses.append(train_step(state, update, inputs(state.step), config, total))
            if state.step % steps_between_losses(accelerator.device) and state.step != end and not report.due(state):
                continue
            values, asked = over_processes(accelerator, losses, interruption.asked)
            state.pending_losses += values
            losses.clear()
            report.after_steps(len(values), state, shown, source)
            due = time.monotonic() - saved > saving.every or state.step == end or asked
            if due and accelerator.is_main_process and (state.step < total or saving.stop_after):
                save_checkpoint(state, saving.folder, saving.settings)
                saved = time.monotonic()
            interruption.act()
            if asked:  # another process got the signal
                raise SystemExit(128 + signal.SIGTERM)
