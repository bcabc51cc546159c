"""A fold of a run: its training cases, its settings, its plan of synthetic cases, and its folders."""

from __future__ import annotations

import hashlib
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from nnunet_difflung.config import Settings
from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.dataset.channels import Relations
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.dataset.writing import lies_as_source, place_of
from nnunet_difflung.generator.card import CARD, read_card
from nnunet_difflung.generator.training import FoldData
from nnunet_difflung.lesions.masks import Lesion, pixel_aspect
from nnunet_difflung.lesions.plan import Plan
from nnunet_difflung.methods import METHODS, Method
from nnunet_difflung.paths import fold_folder
from nnunet_difflung.preparing.styles import ClassStyles, styles_of
from nnunet_difflung.runtime.files import json_bytes
from nnunet_difflung.segmenter.config import SegmenterConfig
from nnunet_difflung.segmenter.data import SegmenterData

_OUTPUT = 2  # raised when a version makes other synthetic cases of the same generator, settings, cases and plan
_WORK = re.compile(r"synthesis_[0-9a-f]+(_[0-9a-f]+)?(_discarded)?")


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
        their channels if there are any, the plan, and what the segmenter depends on if there are candidates. What the
        headers say is not among it: ``work`` depends on that.

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

        Its name depends on the settings, the ``key``, the size of the training cases' voxels, which of them are of the
        same patient and where the hosts lie: what was painted before a header or the patients were corrected is not
        used. If an earlier version has begun to paint the same
        cases, it is the folder of that version.
        """
        folders = [self.own_folder / f"{works}_{ending}" for ending in self._endings for works in self._works]
        return next((folder for folder in folders if self._usable(folder)), folders[0])

    def _usable(self, folder: Path) -> bool:
        """Whether there is such a folder, and none of its cases lies elsewhere than its host lies now."""
        if not folder.is_dir():
            return False
        lies = folder.name.endswith(self._place) or all(self._lies_as_host(path) for path in self._first_images(folder))
        return lies and folder.is_dir()  # still: another process may have discarded it, and what it held was not seen

    def _first_images(self, folder: Path) -> list[Path]:
        """The first image of each case in a work folder."""
        return sorted((folder / "imagesTr").glob(f"difflung_*_0000{self.raw.dataset_json['file_ending']}"))

    def _lies_as_host(self, image: Path) -> bool:
        """Whether a case of the plan lies where its host lies now; an earlier version may have written it."""
        number = image.name.removesuffix(f"_0000{self.raw.dataset_json['file_ending']}").rpartition("_")[2]
        hosts = [planned.host for planned in self.plan.cases if f"{planned.index:04d}" == number]
        return all(lies_as_source(image, self.raw.cases[host].images[0], self.raw.reader) for host in hosts)

    @property
    def begun_by_earlier_version(self) -> bool:
        """Whether an earlier version, whose ids have no key, has begun to paint these cases."""
        return self.work.name.endswith(self._former_key)

    @property
    def _endings(self) -> list[str]:
        """How the name of the work folder may end: today, and in earlier versions.

        The first of these had no key, did not keep relations between channels, and turned lesions in pixels; the names
        of later ones did not depend on headers.
        """
        endings = [self._place, self.key]
        return endings if self.relations or self._turned_in_mm else [*endings, self._former_key]

    @cached_property
    def _place(self) -> str:
        """Short hash of the key, of the size of the training cases' voxels, of whose they are, and of where hosts lie.

        The spread of a class between patients decides how lesions are drawn, and what the gate lets pass.
        """
        numbers: dict[str, int] = {}
        patients = [numbers.setdefault(self.raw.patients[i], len(numbers)) for i in self.data.training_cases]
        spacing = {i: [round(mm, 4) for mm in case.spacing] for i, case in self.facts.items()}
        hosts = sorted({planned.host for planned in self.plan.cases})
        places = {host: place_of(self.raw.cases[host].images[0], self.raw.reader) for host in hosts}
        return hashlib.sha256(json_bytes([self.key, spacing, patients, places])).hexdigest()[:8]

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
        return _prefixes(self.settings)

    def begun_works(self) -> list[Path]:
        """Folders of what was painted with these settings, also for other weights, training cases, headers or plans."""
        return works_in(self.own_folder, self.settings)

    def discard_outdated(self) -> None:
        """Deletes what was painted with these settings for other weights, training cases, headers or plans."""
        for path in self.begun_works():
            if path != self.work:
                discard_work(path)


def works_in(own_folder: Path, settings: Settings) -> list[Path]:
    """Folders of what was painted with these settings, in the folder of a method's own fold."""
    return sorted({path for works in _prefixes(settings) for path in own_folder.glob(f"{works}*")})


def _prefixes(settings: Settings) -> list[str]:
    return [f"synthesis_{name}" for name in (settings.hash(), *settings.former_hashes())]


def discard_work(work: Path) -> None:
    """Deletes a work folder once its cases are in the dataset, or will not be.

    It is renamed first, so that no other process finds half of it under its name.
    """
    discarded = work.with_name(f"{work.name}_discarded")
    shutil.rmtree(discarded, ignore_errors=True)
    with suppress(OSError):
        work = work.rename(discarded)
    shutil.rmtree(work, ignore_errors=True)


def all_works(own_folder: Path) -> list[Path]:
    """Folders of what was painted with any settings, in the folder of a method's own fold; a link is not ours."""
    works = (path for path in own_folder.glob("synthesis_*") if _WORK.fullmatch(path.name))
    return sorted(path for path in works if path.is_dir() and not path.is_symlink())


def discard_works(own_folder: Path) -> None:
    """Deletes all that was painted in the folder of a method's own fold, once the fold has its cases.

    Nobody would take up what was painted before an option was changed: the fold gets no cases of other settings.
    """
    for work in all_works(own_folder):
        discard_work(work)
