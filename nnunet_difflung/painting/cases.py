"""A synthesis of one fold: what it needs, what comes of it, and the files in which its cases wait for injection."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.staged_case import StagedCase
from nnunet_difflung.dataset.writing import copy_sidecar, spacing_sidecar, write_changed_copy
from nnunet_difflung.generator.families import family_of
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.lesions.masks import Lesion
from nnunet_difflung.lesions.plan import HostFacts, Plan, PlannedCase, new_label
from nnunet_difflung.lesions.texture import paste_textures
from nnunet_difflung.methods import METHODS
from nnunet_difflung.painting.gate import ClassReference
from nnunet_difflung.painting.jobs import Host
from nnunet_difflung.painting.patches import MemorisationReference


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
        memory: real lesions that painted ones are compared with; None where memorisation is not looked for.
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
    memory: MemorisationReference | None = None


@dataclass
class SynthesisResult:
    """Staged cases and what the gate said.

    Attributes:
        staged: cases to inject.
        dropped: id → what was measured in the last try, for cases that the gate or the memorisation audit dropped.
        repainted: number of further tries.
        quality: class → pooled bias and distance over the staged cases.
        quality_of_all: the same over the first painting of every case, dropped or not.
        memorisation: class → how close the staged cases come to training slices.
    """

    staged: list[StagedCase] = field(default_factory=list)
    dropped: dict[str, dict] = field(default_factory=dict)
    repainted: int = 0
    quality: dict[str, dict] = field(default_factory=dict)
    quality_of_all: dict[str, dict] = field(default_factory=dict)
    memorisation: dict[str, dict] = field(default_factory=dict)


def synthetic_id(method: str, fold: int | str, index: int) -> str:
    """Case id of a synthetic case."""
    return f"difflung_{method}_f{fold}_{index:04d}"


def load_host(s: Synthesis, planned: PlannedCase, pasted: bool = False) -> Host:
    """Reads a planned case's host and applies the plan's operations to its labels.

    ``pasted``: paste real lesions' intensities too, where the method needs them to paint.
    """
    roles, label = s.cache.roles, s.cache.label(planned.host)
    changed = new_label(planned, label, s.lesions, s.facts, roles)
    condition = np.array(s.cache.condition(planned.host))
    condition = np.where(changed != label, changed, condition)
    image = np.array(s.cache.image(planned.host))
    textures = None
    if pasted and family_of(METHODS[s.method]).starts_from_paste:
        textures = paste_textures(
            image, label, planned.operations, s.facts[planned.host].spacing, s.lesions, roles, s.cache.image
        )
    return Host(planned, image, label, changed, condition, s.facts[planned.host].spacing, textures)


def staged_files(s: Synthesis, planned: PlannedCase) -> tuple[list[Path], Path]:
    """Paths of a synthetic case's image and label files in the work folder, named as nnU-Net names them."""
    identifier = synthetic_id(s.method, s.fold, planned.index)
    ending = s.raw.dataset_json["file_ending"]
    images = [
        s.work / "imagesTr" / f"{identifier}_{i:04d}{ending}" for i in range(len(s.raw.cases[planned.host].images))
    ]
    return images, s.work / "labelsTr" / f"{identifier}{ending}"


def write_case(s: Synthesis, host: Host, values: np.ndarray, region: np.ndarray) -> None:
    """Writes a painted case's image and label files, and their sidecars, into the work folder."""
    case, (images, label) = s.raw.cases[host.planned.host], staged_files(s, host.planned)
    for folder in (images[0].parent, label.parent):
        folder.mkdir(parents=True, exist_ok=True)
    write_changed_copy(case.images, [str(f) for f in images], values, region, s.raw.reader)
    changed = host.new_label != host.label
    write_changed_copy((case.label,), (str(label),), host.new_label[None].astype(np.float32), changed, s.raw.reader)
    identifier = synthetic_id(s.method, s.fold, host.planned.index)
    copy_sidecar(spacing_sidecar(case.images[0], True, s.raw.reader), images[0].parent / f"{identifier}.json")
    copy_sidecar(spacing_sidecar(case.label, False, s.raw.reader), label.parent / f"{identifier}.json")


def staged_case(s: Synthesis, planned: PlannedCase, measured: dict, attempt: int) -> StagedCase:
    """A painted case with its entry in the manifest."""
    images, label = staged_files(s, planned)
    record = {
        "method": s.method,
        "fold": s.fold,
        **planned.as_record(),
        "generator": s.generator.hash or None,
        "paint": s.sampling.paint,
        "tries": attempt + 1,
        **measured,
    }
    return StagedCase(synthetic_id(s.method, s.fold, planned.index), tuple(images), label, record)


def discard_work(work: Path) -> None:
    """Deletes a synthesis's work folder once its cases are in the dataset."""
    shutil.rmtree(work, ignore_errors=True)
