"""Plan + generator → painted, gated cases as files that only have to be moved into the dataset.

Work lies in the generator's folder and is kept until it is injected, so an interrupted synthesis goes on; slices are
painted in batches that depend on the plan alone, so it ends with the same files.
"""
from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from nnunet_difflung.balance import HostFacts, Plan, PlannedCase, new_label
from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.diffusion import size_factor
from nnunet_difflung.files import read_json, replacing, write_json
from nnunet_difflung.gate import ClassReference, measure, passes, pooled
from nnunet_difflung.generator import Generator
from nnunet_difflung.image_files import copy_sidecar, spacing_sidecar, write_changed_copy
from nnunet_difflung.inject import StagedCase
from nnunet_difflung.interruption import Interruption
from nnunet_difflung.masks import Lesion
from nnunet_difflung.methods import METHODS
from nnunet_difflung.painting import Host, Job, crops, make_jobs, paint_jobs, painted_region
from nnunet_difflung.raw_dataset import RawDataset
from nnunet_difflung.slices import SliceCache
from nnunet_difflung.texture import paste_textures


@dataclass
class Synthesis:
    """All that painting the cases of one fold needs.

    Attributes:
        raw: the dataset.
        cache: its real cases.
        plan: cases to make.
        lesions: of the fold's training cases.
        facts: of the fold's training cases.
        generator: the fold's; without a network for a method that needs none.
        references: real intensities of the fold's training cases.
        sampling: settings.
        method: recorded in every case.
        fold: recorded in every case and part of its id.
        work: folder of this synthesis.
        device: where to paint.
    """

    raw: RawDataset
    cache: SliceCache
    plan: Plan
    lesions: dict[str, list[Lesion]]
    facts: dict[str, HostFacts]
    generator: Generator
    references: dict[str, list[ClassReference]]
    sampling: SamplingConfig
    method: str
    fold: int | str
    work: Path
    device: str = "cpu"


@dataclass
class SynthesisResult:
    """Staged cases and what the gate said.

    Attributes:
        staged: cases to inject.
        dropped: id → quality of the last try, for cases that the gate dropped.
        repainted: number of further tries.
        quality: class → pooled bias and distance over the staged cases.
        quality_of_all: the same over the first painting of every case, dropped or not.
    """

    staged: list[StagedCase] = field(default_factory=list)
    dropped: dict[str, dict] = field(default_factory=dict)
    repainted: int = 0
    quality: dict[str, dict] = field(default_factory=dict)
    quality_of_all: dict[str, dict] = field(default_factory=dict)


def synthetic_id(method: str, fold: int | str, index: int) -> str:
    """Case id of a synthetic case."""
    return f"difflung_{method}_f{fold}_{index:04d}"


def load_host(s: Synthesis, planned: PlannedCase) -> Host:
    """Reads a planned case's host and applies the plan's operations to its labels."""
    roles, label = s.cache.roles, s.cache.label(planned.host)
    changed = new_label(planned, label, s.lesions, s.facts, roles)
    condition = np.array(s.cache.condition(planned.host))
    condition = np.where(changed != label, changed, condition)
    image = np.array(s.cache.image(planned.host))
    pasted = None
    if METHODS[s.method].pastes:
        pasted = paste_textures(image, label, planned.operations, s.facts[planned.host], s.facts, roles,
                                lambda case: (s.cache.image(case), s.cache.label(case)))
    return Host(planned, image, label, changed, condition, s.facts[planned.host].spacing, pasted)


def synthesize(s: Synthesis, progress: bool = True) -> SynthesisResult:
    """Paints all planned cases, repaints those that fail the gate, and stages those that pass.

    Returns:
        The staged cases and what was dropped (nothing with ``--gate report`` or ``off``).
    """
    result, rows, first_rows = SynthesisResult(), [], []
    pending = list(s.plan.cases)
    varies = METHODS[s.method].family != "copy"  # a copy comes out the same however often it is made
    tries = 1 + (s.sampling.repaints if s.sampling.gate == "drop" and varies else 0)
    for attempt in range(tries):
        _paint_all(s, pending, attempt, progress)
        failed = []
        for planned in pending:
            quality = _assemble(s, planned, attempt, last=attempt == tries - 1)
            first_rows += [quality] if attempt == 0 else []
            if passes(quality) or s.sampling.gate != "drop":
                result.staged.append(_staged_case(s, planned, quality, attempt))
                rows.append(quality)
            else:
                failed.append(planned)
                result.dropped[synthetic_id(s.method, s.fold, planned.index)] = quality
        pending = failed
        result.repainted += len(failed) if attempt < tries - 1 else 0
    kept = {case.identifier for case in result.staged}
    result.dropped = {i: quality for i, quality in result.dropped.items() if i not in kept}
    result.staged.sort(key=lambda case: case.identifier)
    result.quality, result.quality_of_all = pooled(rows), pooled(first_rows)
    return result


def _batches(s: Synthesis, cases: list[PlannedCase], attempt: int) -> Iterator[list[Job]]:
    """Jobs grouped by shape, in an order that depends on the plan alone; few hosts are in memory at a time."""
    waiting: dict[tuple[int, int], list[Job]] = {}
    for planned in cases:
        for job in make_jobs(load_host(s, planned), s.generator, s.cache.roles, s.sampling, attempt):
            group = waiting.setdefault(job.shape, [])
            group.append(job)
            if len(group) == s.sampling.batch_size:
                yield waiting.pop(job.shape)
    yield from waiting.values()


def _paint_all(s: Synthesis, cases: list[PlannedCase], attempt: int, progress: bool) -> None:
    def file(job: Job) -> Path:
        return s.work / "painted" / f"try{attempt}" / f"{job.case:05d}_z{job.z:04d}.npy"

    total = sum(len(case.slices) for case in cases)
    title = "painting" if attempt == 0 else f"repainting (try {attempt + 1})"
    with Interruption(impatient=True) as interruption, tqdm(total=total, desc=title, unit="slice",
                                              disable=not progress or not total) as bar:
        for jobs in _batches(s, cases, attempt):
            if not all(file(job).is_file() for job in jobs):
                for job, image in zip(jobs, _painted(s, jobs, attempt), strict=True):
                    with replacing(file(job)) as temporary, open(temporary, "wb") as handle:
                        np.save(handle, image.astype(np.float32))
            bar.update(len(jobs))
            interruption.act()


def _painted(s: Synthesis, jobs: list[Job], attempt: int) -> list[np.ndarray]:
    return paint_jobs(jobs, METHODS[s.method], s.generator, s.sampling, s.device, attempt)


def _assemble(s: Synthesis, planned: PlannedCase, attempt: int, last: bool) -> dict[str, dict]:
    """Puts painted slices into a copy of the host, measures them, and writes the case if it is to be kept."""
    staged = s.work / "cases" / f"{synthetic_id(s.method, s.fold, planned.index)}.json"
    if staged.is_file():
        known = read_json(staged)
        if known["attempt"] == attempt:
            return known["quality"]
    host = load_host(s, planned)
    region = painted_region(host, s.cache.roles, s.sampling)
    values = host.image.astype(np.float32)
    for z, crop in crops(region, size_factor(s.generator.config), s.sampling):
        image = np.load(s.work / "painted" / f"try{attempt}" / f"{planned.index:05d}_z{z:04d}.npy")
        view = values[(slice(None), z, *crop)]
        view[:, region[z][crop]] = image[:, region[z][crop]]
    outside = region & (host.condition == 0)
    for channel, (low, _) in enumerate(s.generator.config.windows):
        values[channel][outside] = low
    changed = host.new_label != host.label
    names = {s.cache.roles.values[name]: name for name in s.cache.roles.pathologies}
    painted = {name: values[:, changed & (host.new_label == value)] for value, name in names.items()
               if (changed & (host.new_label == value)).any()}
    quality = measure(painted, s.references) if s.sampling.gate != "off" else {}
    if passes(quality) or s.sampling.gate != "drop":
        _write_case(s, host, values, region)
        write_json(staged, {"attempt": attempt, "quality": quality})
    return quality


def staged_files(s: Synthesis, planned: PlannedCase) -> tuple[list[Path], Path]:
    """Paths of a synthetic case's image and label files in the work folder, named as nnU-Net names them."""
    identifier = synthetic_id(s.method, s.fold, planned.index)
    ending = s.raw.dataset_json["file_ending"]
    images = [s.work / "imagesTr" / f"{identifier}_{i:04d}{ending}"
              for i in range(len(s.raw.cases[planned.host].images))]
    return images, s.work / "labelsTr" / f"{identifier}{ending}"


def _write_case(s: Synthesis, host: Host, values: np.ndarray, region: np.ndarray) -> None:
    case, (images, label) = s.raw.cases[host.planned.host], staged_files(s, host.planned)
    for folder in (images[0].parent, label.parent):
        folder.mkdir(parents=True, exist_ok=True)
    write_changed_copy(case.images, [str(f) for f in images], values, region, s.raw.reader)
    changed = host.new_label != host.label
    write_changed_copy((case.label,), (str(label),), host.new_label[None].astype(np.float32), changed, s.raw.reader)
    identifier = synthetic_id(s.method, s.fold, host.planned.index)
    copy_sidecar(spacing_sidecar(case.images[0], True, s.raw.reader), images[0].parent / f"{identifier}.json")
    copy_sidecar(spacing_sidecar(case.label, False, s.raw.reader), label.parent / f"{identifier}.json")


def _staged_case(s: Synthesis, planned: PlannedCase, quality: dict[str, dict], attempt: int) -> StagedCase:
    images, label = staged_files(s, planned)
    record = {"method": s.method, "fold": s.fold, **planned.as_record(), "generator": s.generator.hash or None,
              "paint": s.sampling.paint, "tries": attempt + 1, "quality": quality}
    return StagedCase(synthetic_id(s.method, s.fold, planned.index), tuple(images), label, record)


def discard_work(work: Path) -> None:
    """Deletes a synthesis's work folder once its cases are in the dataset."""
    shutil.rmtree(work, ignore_errors=True)
