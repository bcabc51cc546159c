"""The synthesis of one fold: its inputs, its results, and the files of its cases before they are injected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nnunet_difflung.dataset.staged_case import StagedCase
from nnunet_difflung.dataset.writing import copy_sidecar, spacing_sidecar, write_changed_copy
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.judging.continuity import RealContinuity
from nnunet_difflung.judging.gate import ClassReference
from nnunet_difflung.judging.patches import MemorisationReference
from nnunet_difflung.judging.placebo_gate import LungReference
from nnunet_difflung.judging.selection import Selection
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.painting.box import box_of_case
from nnunet_difflung.preparing.application import AppliedCase
from nnunet_difflung.preparing.fold import Fold
from nnunet_difflung.runtime.files import sync


@dataclass(frozen=True)
class Synthesis:
    """What painting a fold's plan needs.

    Attributes:
        fold: the fold and its plan.
        generator: the fold's generator; without a network if the method needs none.
        references: real lesions of the fold's training cases; empty if the gate is off.
        memory: real lesions that painted lesions are compared with; None if the memorisation audit is off.
        device: ``cpu``, ``cuda`` or ``mps``.
        selection: how candidates are judged; None if each case is painted once.
        lung: normal lung that placebo cases are compared with; None if the gate is off or there are none.
        continuity: class → how its real lesions go on from slice to slice, in each channel; empty if the gate is off,
            and for slices.
        seams: class → for each channel the step as far from its real lesions as painting ends
            (``judging.seam.real_seams``); empty if the gate is off.
    """

    fold: Fold
    generator: Generator
    references: dict[str, ClassReference]
    memory: MemorisationReference | None
    device: str = "cpu"
    selection: Selection | None = None
    lung: LungReference | None = None
    continuity: dict[str, list[RealContinuity]] = field(default_factory=dict)
    seams: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class SynthesisResult:
    """Staged cases, and the results of the gate and of the memorisation audit.

    Attributes:
        staged: cases to inject.
        dropped: id → measurements of the last try, for cases that the gate or the memorisation audit dropped.
        repainted: number of times that a case was painted again.
        quality: class → pooled bias and distance over the staged cases.
        quality_of_all: the same over the first try of every case, dropped or not.
        verdicts: class → whether the gate can judge it, and verdicts on the pooled figures and on the
            seam (``judging.verdict.judge``).
        memorisation: class → similarity of the staged cases to training slices.
        selection: what the segmenter knows and what it chose (``judging.selection.summarise``); empty without
            candidates.
        placebo: of the placebo cases: ``planned``, ``kept``, ``share`` of the staged cases, and of the kept ones
            ``quality``, their pooled figures, and ``seam``, both empty if the gate is off; empty without placebo cases.
    """

    staged: list[StagedCase] = field(default_factory=list)
    dropped: dict[str, dict] = field(default_factory=dict)
    repainted: int = 0
    quality: dict[str, dict] = field(default_factory=dict)
    quality_of_all: dict[str, dict] = field(default_factory=dict)
    verdicts: dict[str, dict] = field(default_factory=dict)
    memorisation: dict[str, dict] = field(default_factory=dict)
    selection: dict = field(default_factory=dict)
    placebo: dict = field(default_factory=dict)

    def dropped_with_lesions(self) -> list[dict]:
        """Measurements of the cases with new lesions that were dropped for what they look like."""
        rows = [measured for measured in self.dropped.values() if "placebo_quality" not in measured]
        return [measured for measured in rows if not measured.get("excluded")]


def synthetic_id(fold: Fold, planned: PlannedCase) -> str:
    """Case id of a synthetic case, such as ``difflung_cbmat_f0_1a2b3c4d_0000``.

    No other case ever gets it, so that files that nnU-Net has preprocessed cannot be taken for those of another case.
    """
    key = "" if fold.begun_by_earlier_version else f"_{fold.key}"
    return f"difflung_{fold.method.name}_f{fold.number}{key}_{planned.index:04d}"


def staged_files(fold: Fold, planned: PlannedCase) -> tuple[list[Path], Path]:
    """Paths of a synthetic case's image and label files in the work folder, named as nnU-Net names them."""
    identifier, ending = synthetic_id(fold, planned), fold.raw.dataset_json["file_ending"]
    channels = len(fold.raw.cases[planned.host].images)
    images = [fold.work / "imagesTr" / f"{identifier}_{i:04d}{ending}" for i in range(channels)]
    return images, fold.work / "labelsTr" / f"{identifier}{ending}"


def write_case(fold: Fold, applied: AppliedCase, values: np.ndarray) -> dict[str, int]:
    """Writes a synthetic case's image and label files, and their sidecars, into the work folder, and onto the disk.

    Args:
        fold: fold of the case.
        applied: the planned case.
        values: (c, n, y, x) intensities of its n slices that change.

    Returns:
        file, relative to the work folder → its size in bytes.
    """
    reader, identifier = fold.raw.reader, synthetic_id(fold, applied.planned)
    host, (images, label) = fold.raw.cases[applied.planned.host], staged_files(fold, applied.planned)
    for folder in (images[0].parent, label.parent):
        folder.mkdir(parents=True, exist_ok=True)
    box = box_of_case(applied, fold.settings.sampling.box)

    def write(sources: Sequence[str], targets: Sequence[Path], changed: np.ndarray, where: np.ndarray) -> None:
        whole, there = applied.in_host(changed), applied.in_host(where)  # of the host's size: one such pair at a time
        write_changed_copy(sources, [str(f) for f in targets], whole, there, reader, box)

    write(host.images, images, values, applied.region)
    write((host.label,), (label,), applied.new_label[None].astype(np.float32), applied.changed)
    copy_sidecar(spacing_sidecar(host.images[0], True, reader), images[0].parent / f"{identifier}.json")
    copy_sidecar(spacing_sidecar(host.label, False, reader), label.parent / f"{identifier}.json")
    for path in (*images, label, images[0].parent, label.parent):
        sync(path)
    return {path.relative_to(fold.work).as_posix(): path.stat().st_size for path in (*images, label)}


def staged_case(synthesis: Synthesis, planned: PlannedCase, measured: dict, attempt: int) -> StagedCase:
    """A synthetic case with its entry in the manifest."""
    fold = synthesis.fold
    images, label = staged_files(fold, planned)
    record = {
        "method": fold.method.name,
        "fold": fold.number,
        **planned.as_record(),
        "generator": synthesis.generator.hash or None,
        "paint": fold.settings.sampling.paint,
        "tries": attempt + 1,
        **measured,
    }
    if "box" in record:  # the slices are those of the file
        first, end = record["box"][0]
        record["slices"] = [z - first for z in record["slices"] if first <= z < end]
    return StagedCase(synthetic_id(fold, planned), tuple(images), label, record)
