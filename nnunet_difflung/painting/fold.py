"""A fold of a run: its training cases, its settings, its plan of synthetic cases, and its folders."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nnunet_difflung.config import Settings
from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.dataset.channels import Relations
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.generator.card import CARD, read_card
from nnunet_difflung.generator.training import FoldData
from nnunet_difflung.lesions.masks import Lesion, pixel_aspect
from nnunet_difflung.lesions.plan import Plan
from nnunet_difflung.methods import METHODS, Method
from nnunet_difflung.painting.styles import ClassStyles, styles_of
from nnunet_difflung.paths import fold_folder
from nnunet_difflung.runtime.files import json_bytes
from nnunet_difflung.segmenter.config import SegmenterConfig
from nnunet_difflung.segmenter.data import SegmenterData

_OUTPUT = 2  # raised when a version makes other synthetic cases of the same generator, settings, cases and plan


@dataclass(frozen=True)
class Fold:
    """A fold of a run of ``difflung_augment``.

    Attributes:
        raw: the dataset.
        data: the fold's number and training cases, which is all that its generator may see.
        settings: settings of the run.
        lesions: pathology → lesions of the training cases.
        plan: the synthetic cases to make from the training cases.
        relations: what holds between the channels of the training cases.
    """

    raw: RawDataset
    data: FoldData
    settings: Settings
    lesions: dict[str, list[Lesion]]
    plan: Plan
    relations: Relations = Relations()

    @cached_property
    def styles(self) -> dict[str, ClassStyles]:
        """Pathology → styles of its real lesions, from which those of new ones are derived."""
        sampling, patients = self.settings.sampling, self.raw.patients
        return {name: styles_of(found, self.cache, patients, sampling) for name, found in self.lesions.items()}

    @property
    def number(self) -> int | str:
        """Index in ``splits_final.json``, or ``all``."""
        return self.data.fold

    @property
    def cache(self) -> SliceCache:
        """The dataset's real cases."""
        return self.data.cache

    @cached_property
    def facts(self) -> dict[str, CaseFacts]:
        """Facts of the training cases."""
        return {i: self.cache.facts[i] for i in self.data.training_cases}

    @property
    def method(self) -> Method:
        """The method that makes the synthetic cases."""
        return METHODS[self.settings.method]

    @property
    def folder(self) -> Path:
        """The folder of the generator that paints; for a method without a generator, the folder of its own fold."""
        return fold_folder(self.raw.name, self.method.trained.name, self.number)

    @property
    def own_folder(self) -> Path:
        """The folder of the method's own fold; it differs from ``folder`` if another method's generator paints."""
        return fold_folder(self.raw.name, self.method.name, self.number)

    @property
    def segmenter_folder(self) -> Path:
        """The folder of the segmenter that selects candidates, beside the generator that paints them."""
        return self.folder / "segmenter"

    @cached_property
    def segmenter_data(self) -> SegmenterData:
        """What the segmenter may see: the training cases, by patient."""
        patients = {i: self.raw.patients[i] for i in self.data.training_cases}
        return SegmenterData(self.cache, self.raw.name, self.number, patients)

    @cached_property
    def segmenter_config(self) -> SegmenterConfig:
        """The segmenter's settings; it has the generator's seed."""
        return SegmenterConfig(seed=self.settings.generator.seed)

    @cached_property
    def key(self) -> str:
        """Short hash of all that the synthetic cases depend on, for their ids: equal runs give equal ids, others never.

        It depends on the settings, the weights of the generator, what the training cases hold, the relations between
        their channels if there are any, the plan, and what the segmenter depends on if there are candidates.

        Raises:
            RuntimeError: the generator is not trained yet, so that the key is not known.
        """
        weights = None
        if self.method.generator:
            weights = read_card(self.folder).get("weights_sha256") if (self.folder / CARD).is_file() else None
            if weights is None:
                raise RuntimeError(f"the generator in {self.folder} is not trained yet, so its cases have no ids")
        depends = [_OUTPUT, self.settings.painted_identity(), weights, self._painted_from()]
        depends += [self.relations.as_record()] if self.relations else []
        if self.settings.sampling.candidates > 1:
            depends.append(self.segmenter_data.digest(self.segmenter_config))
        if self._turned_in_mm:
            depends.append("lesions are turned in mm")
        if len(self.raw.roles.normal) > 1:  # earlier versions had one, which the plan tells
            depends.append(self.raw.roles.normal)
        return hashlib.sha256(json_bytes(depends)).hexdigest()[:8]

    @cached_property
    def work(self) -> Path:
        """Folder of painted slices and staged cases until they are injected.

        Its name depends on the settings and the ``key``. If an earlier version has begun to paint the same cases, it is
        the folder of that version.
        """
        folders = [self.own_folder / f"{works}_{key}" for key in self._keys for works in self._works]
        return next((folder for folder in folders if folder.is_dir()), folders[0])

    @property
    def begun_by_earlier_version(self) -> bool:
        """Whether an earlier version, whose ids have no key, has begun to paint these cases."""
        return self.work.name.endswith(self._former_key)

    @property
    def _keys(self) -> list[str]:
        """How the name of the work folder may end.

        The first version did not keep relations between channels, and turned lesions in pixels.
        """
        return [self.key] if self.relations or self._turned_in_mm else [self.key, self._former_key]

    @property
    def _turned_in_mm(self) -> bool:
        """Whether turning lesions in mm, as earlier versions did not, makes a difference: pixels are not square."""
        return any(pixel_aspect(case.spacing) != 1 for case in self.facts.values())

    @cached_property
    def _former_key(self) -> str:
        """What the names of work folders of earlier versions ended in."""
        return hashlib.sha256(json_bytes(self._painted_from())).hexdigest()[:12]

    def _painted_from(self) -> list:
        """What the training cases hold, and the plan."""
        content = {i: case.content for i, case in self.facts.items()}
        return [content, [planned.as_record() for planned in self.plan.cases]]

    @property
    def _works(self) -> list[str]:
        """Prefixes of the work folder's name for these settings: today's, then those of earlier versions."""
        return [f"synthesis_{name}" for name in (self.settings.hash(), *self.settings.former_hashes())]

    def begun_works(self) -> list[Path]:
        """Folders of what was painted with these settings, also for other weights, training cases or another plan."""
        return sorted({path for works in self._works for path in self.own_folder.glob(f"{works}*")})

    def discard_outdated(self) -> None:
        """Deletes what was painted with these settings for other weights, training cases or another plan."""
        for path in self.begun_works():
            if path != self.work:
                discard_work(path)


def discard_work(work: Path) -> None:
    """Deletes a work folder once its cases are in the dataset."""
    shutil.rmtree(work, ignore_errors=True)
