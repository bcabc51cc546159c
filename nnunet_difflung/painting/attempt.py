"""One attempt at painting cases: its files, and the work on a single case or batch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.generator.encoding import size_factor
from nnunet_difflung.judging import selection
from nnunet_difflung.judging.continuity import of_case
from nnunet_difflung.judging.gate import Region, measure, passes, region_of, with_unpainted
from nnunet_difflung.judging.memorisation import nearest
from nnunet_difflung.judging.normal_pieces import MIN_NORMAL
from nnunet_difflung.judging.placebo_gate import measure_placebo
from nnunet_difflung.judging.seam import seam_of
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.painting.box import box_of_case, box_record
from nnunet_difflung.painting.cases import Synthesis, synthetic_id, write_case
from nnunet_difflung.painting.fade import weights
from nnunet_difflung.painting.jobs import Job, make_jobs, paint_jobs, with_painted
from nnunet_difflung.preparing.application import AppliedCase, apply_plan, planned_region
from nnunet_difflung.preparing.fold import Fold
from nnunet_difflung.preparing.stacks import JobSize, Stack, sizes_of, stacks_of
from nnunet_difflung.runtime.arrays import load
from nnunet_difflung.runtime.files import check_format, read_json, replacing, write_json
from nnunet_difflung.runtime.messages import note
from nnunet_difflung.runtime.wording import counted

_FORMAT = 1  # format number of a case's record
_WRITTEN = "files"  # in a case's record: file → size; records of earlier versions do not have it


def accepted(sampling: SamplingConfig, measured: dict) -> bool:
    """Whether a painted case may be injected, according to ``--gate``, ``--memorised`` and the fold's segmenter."""
    copied = any(row and row["above_real_p99"] for row in measured["memorisation"].values())
    good = passes(measured["quality"]) and passes(measured.get("placebo_quality", {}))
    by_gate = sampling.gate != "drop" or good
    return by_gate and (sampling.memorised != "drop" or not copied) and selection.recognised(measured)


class Attempt:
    """One attempt at painting cases, or one candidate of it: its files, and the work on a single case or batch."""

    def __init__(self, synthesis: Synthesis, attempt: int, candidate: int = 0):
        self.synthesis, self.fold, self.attempt, self.candidate = synthesis, synthesis.fold, attempt, candidate
        self.name = f"try{attempt}" + (f"_candidate{candidate}" if candidate else "")
        self.factor = size_factor(synthesis.generator.config)
        self.together = bool(synthesis.generator.config.neighbours)
        self.planned = {planned.index: planned for planned in self.fold.plan.cases}

    def painted_file(self, planned: PlannedCase, stack: Stack) -> Path:
        """File of a painted slice or stack of slices of a planned case."""
        z = planned.slices[stack.positions[0]]
        part = f"_y{stack.crop[0].start}_x{stack.crop[1].start}" if self.together else ""
        return self.fold.work / "painted" / self.name / f"{planned.index:05d}_z{z:04d}{part}.npy"

    def painted_files(self, applied: AppliedCase) -> list[Path]:
        """Files of all that is painted of a planned case."""
        return [self.painted_file(applied.planned, stack) for stack in self.stacks(applied)]

    def files_of(self, index: int) -> list[Path]:
        """Files of what has been painted of a planned case."""
        return sorted((self.fold.work / "painted" / self.name).glob(f"{index:05d}_*.npy"))

    def stacks(self, applied: AppliedCase) -> list[Stack]:
        """What is painted together of a planned case."""
        sampling = self.fold.settings.sampling
        return stacks_of(applied.region, applied.planned.slices, self.factor, sampling, self.together)

    def record(self, planned: PlannedCase) -> Path:
        """File with a case's measurements; written when the case's files are complete, or when it has been rejected.

        It holds ``quality`` (of the gate), ``memorisation`` and, with candidates, ``recognition`` (of the segmenter),
        each of them class → figures; of a placebo case also ``placebo_quality``
        (``judging.placebo_gate.measure_placebo``). Unless the gate is off, it holds ``seam``
        (``judging.seam.seam_of``). ``files`` are the case's files and their sizes.
        """
        return self.fold.work / "cases" / self.name / f"{synthetic_id(self.fold, planned)}.json"

    def measured(self, planned: PlannedCase) -> dict:
        """Measurements in a case's record.

        Raises:
            BadInput: a newer version wrote it.
        """
        content = _checked(self.record(planned), self.fold.work)
        return {key: value for key, value in content.items() if key not in ("format", _WRITTEN)}

    def is_measured(self, planned: PlannedCase) -> bool:
        """Whether a case has a record; a record of a newer version is refused before anything is written."""
        if not self.record(planned).is_file():
            return False
        self.measured(planned)
        return True

    def sizes(self, planned: PlannedCase) -> list[JobSize]:
        """The sizes of a case's jobs, which are the same in every attempt; read or measured, and written."""
        file = self.sizes_file(planned)
        if not file.is_file():
            region = planned_region(self.fold, planned, self.fold.cache.label)
            depth, sampling = self.fold.cache.facts[planned.host].shape[0], self.fold.settings.sampling
            found = sizes_of(region, planned, depth, self.factor, sampling, self.together)
            rows = [(*size.shape, size.number_of_slices, size.painted) for size in found]
            with replacing(file) as temporary, open(temporary, "wb") as handle:
                np.save(handle, np.array(rows, np.int64).reshape(-1, 4))
        rows = load(file).tolist()
        return [JobSize(planned.index, number, (row[0], row[1]), *row[2:]) for number, row in enumerate(rows)]

    def sizes_file(self, planned: PlannedCase) -> Path:
        """File of the sizes of a case's jobs, for other processes."""
        return self.fold.work / "jobs" / f"{planned.index:05d}.npy"

    def jobs(self, applied: AppliedCase, wanted: Collection[int] | None = None) -> list[Job]:
        """The slices of a case as inputs of the network; only the jobs of the wanted numbers if they are given."""
        sampling, roles = self.fold.settings.sampling, self.fold.cache.roles
        applied = replace(applied, planned=selection.other_noise(applied.planned, self.candidate))
        return make_jobs(applied, self.synthesis.generator, roles, sampling, self.attempt, wanted)

    def paint(self, batch: list[Job]) -> None:
        """Paints the slices of a batch unless all of them have been painted."""
        files = [self.painted_file(self.planned[job.index], job.stack) for job in batch]
        if all(file.is_file() for file in files):
            return
        synthesis, sampling = self.synthesis, self.fold.settings.sampling
        images = paint_jobs(batch, self.fold.method, synthesis.generator, sampling, synthesis.device)
        for file, image in zip(files, images, strict=True):
            with replacing(file) as temporary, open(temporary, "wb") as handle:
                np.save(handle, image.astype(np.float32))

    def measure(self, applied: AppliedCase) -> None:
        """Measures a case whose slices are all painted, and writes its files if it is accepted."""
        synthesis, sampling = self.synthesis, self.fold.settings.sampling
        values, written = self._values(applied), dict[str, int]()
        measured: dict[str, Any] = {"quality": {}, "memorisation": {}}
        measured |= box_record(box_of_case(applied, sampling.box))
        if applied.planned.placebo:
            measured["placebo_quality"] = {}
        if sampling.gate != "off":
            part = "placebo_quality" if applied.planned.placebo else "quality"
            quality, unpainted = (self._quality(applied, image) for image in (values, self._unpainted(applied)))
            measured[part] = with_unpainted(quality, unpainted)
            measured["seam"] = seam_of(applied, values, self.fold.cache.roles, synthesis.generator.config.windows)
            if synthesis.continuity and not applied.planned.placebo:
                measured["along_z"] = of_case(applied, values, self.fold.cache, synthesis.generator.config.windows)
        if synthesis.memory:  # what is normal lung can copy no lesion
            measured["memorisation"] = nearest(values, applied.changed, applied.new_label, synthesis.memory)
        if synthesis.selection:
            measured["recognition"] = synthesis.selection.recognition(applied, values)
        elif accepted(sampling, measured):
            written = write_case(self.fold, applied, values)
        files = {_WRITTEN: written} if written else {}
        write_json(self.record(applied.planned), {"format": _FORMAT, **files, **measured})

    def written_record(self, planned: PlannedCase) -> Path:
        """File that says that the files of a chosen candidate are complete."""
        return self.fold.work / "cases" / f"{self.name}_chosen" / f"{synthetic_id(self.fold, planned)}.json"

    def is_written(self, planned: PlannedCase) -> bool:
        """Whether the files of a chosen candidate are complete."""
        return self.written_record(planned).is_file()

    def write(self, planned: PlannedCase) -> None:
        """Writes the files of a chosen candidate."""
        applied = apply_plan(self.fold, planned, textures=False)
        written = write_case(self.fold, applied, self._values(applied))
        write_json(self.written_record(planned), {"format": _FORMAT, _WRITTEN: written})

    def _quality(self, applied: AppliedCase, image: np.ndarray) -> dict[str, dict]:
        """How (c, n, y, x) intensities compare with real lesions, or with normal lung in a placebo case."""
        if not applied.planned.placebo:
            return measure(self._regions(applied, image), self.synthesis.references)
        normal = self.fold.cache.roles.is_normal(applied.new_label)
        around = normal & ~applied.region  # the margin is painted, too
        if around.sum() < MIN_NORMAL:  # hardly any lung is left as it was, or the whole slice is painted
            around = normal & ~applied.outline
        if self.synthesis.lung is None or not applied.outline.any():
            return {}
        region = region_of(image, applied.outline, around, self.synthesis.generator.config.windows)
        return measure_placebo(region, int(around.sum()), self.synthesis.lung)

    def _regions(self, applied: AppliedCase, image: np.ndarray) -> dict[str, Region]:
        """The voxels of (c, n, y, x) intensities that got a pathology's label, for each such pathology."""
        roles, windows = self.fold.cache.roles, self.synthesis.generator.config.windows
        normal, regions = roles.is_normal(applied.new_label), {}
        for name in roles.pathologies:
            voxels = applied.changed & (applied.new_label == roles.values[name])
            if voxels.any():
                regions[name] = region_of(image, voxels, normal, windows)
        return regions

    def _unpainted(self, applied: AppliedCase) -> np.ndarray:
        """(c, n, y, x) the host's intensities; channels that are not painted are as in the synthetic case."""
        if not self.fold.relations:
            return applied.image
        values = applied.image.astype(np.float32)
        self.fold.relations.apply(values, applied.image, applied.region, applied.condition)
        return values

    def _values(self, applied: AppliedCase) -> np.ndarray:
        """(c, n, y, x) the host's intensities with the painted region, in which the channels' relations hold."""
        painted = [(stack, self._painted(applied.planned, stack)) for stack in self.stacks(applied)]
        normal = self.fold.cache.roles.is_normal(applied.new_label)
        weight = weights(applied, self.fold.settings.sampling, self.together)
        windows = self.synthesis.generator.config.windows
        return with_painted(applied, painted, windows, self.fold.relations, normal, weight)

    def _painted(self, planned: PlannedCase, stack: Stack) -> np.ndarray:
        """(c, s, h, w) what was painted of a stack."""
        image = load(self.painted_file(planned, stack))
        return image[:, None] if image.ndim == 3 else image  # as an earlier version wrote it


def check_painted(fold: Fold) -> None:
    """Refuses cases that a newer version has painted for the fold, before anything is trained.

    Raises:
        BadInput: names the record and the folder.
    """
    for work in fold.begun_works():  # which of them will be used is known when the generator is trained
        for path in sorted(work.glob("cases/*/*.json")):
            _checked(path, work)


def discard_broken(fold: Fold) -> None:
    """Deletes the records of cases whose files are not as they were written, such as after a power failure.

    Such cases are written again from what has been painted of them.
    """
    records = sorted(fold.work.glob("cases/*/*.json"))
    broken = [path for path in records if not _is_whole(_checked(path, fold.work).get(_WRITTEN, {}), fold.work)]
    for path in broken:
        path.unlink()
    if broken:
        note(f"fold {fold.number}: files of {counted(len(broken), 'painted case')} broke off; they are written again")


def _is_whole(written: dict[str, int], work: Path) -> bool:
    sizes = ((work / name, size) for name, size in written.items())
    return all(path.is_file() and path.stat().st_size == size for path, size in sizes)


def _checked(record: Path, work: Path) -> dict:
    content = read_json(record)
    check_format(record, content, _FORMAT, f", or delete the folder {work} to paint its cases anew")
    return content
