"""Each synthetic case's host is read and its lesions are warped once, and the manifest is read once for each state."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from nnunet_difflung.commands.augment import main, parse, settings_from
from nnunet_difflung.dataset.cache import SliceCache, build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection import manifest as manifest_module
from nnunet_difflung.injection.manifest import MANIFEST, read_manifest
from nnunet_difflung.painting import painter as painter_module
from nnunet_difflung.painting.cases import SynthesisResult, synthetic_id
from nnunet_difflung.pipeline import augment as augment_module
from nnunet_difflung.pipeline import fold as fold_module
from nnunet_difflung.pipeline.estimates import estimate_bytes
from nnunet_difflung.preparing.fold import discard_work
from nnunet_difflung.runtime.files import sha256, write_bytes, write_json
from nnunet_difflung.runtime.share import Share
from tests.support.commands import AS_EARLIER, prepared
from tests.support.tiny import make_dataset

COPY = ["-d", "801", "-f", "0", "--method", "copy_paste", "--gate", "report", "-device", "cpu", "-np", "1"]
MASKS = ["--max-synthetic", "10", "--target-share", "emphysema=0.4", "ILD=0.4", *AS_EARLIER]


class Counts:
    """Counts what is read and warped while synthetic cases are painted, shown and injected, not what planning does."""

    def __init__(self, monkeypatch):
        self.of: Counter[str] = Counter()
        self._paused, self._lock = threading.local(), threading.Lock()
        self._count(monkeypatch, SliceCache, "label", lambda *_, **__: "labels read")
        self._count(monkeypatch, SliceCache, "image", lambda *_, **__: "images read")
        self._count(
            monkeypatch,
            ndimage,
            "affine_transform",
            lambda *_, order, **__: "masks warped" if order == 1 else "textures warped",
        )
        self._count(
            monkeypatch,
            manifest_module,
            "read_json",
            lambda path: "manifests read" if Path(path).name == MANIFEST else "other files read",
        )
        for name in ("prepare_fold", "reference", "continuity_reference", "real_seams", "real_to_real"):
            self._leave_out(monkeypatch, fold_module, name)
        for name in ("prepare_folds", "look_at_images", "images_begun"):
            self._leave_out(monkeypatch, augment_module, name)

    def _count(self, monkeypatch, owner: object, name: str, key: Callable[..., str]) -> None:
        original = getattr(owner, name)

        def counted(*arguments, **options):
            if not getattr(self._paused, "now", False):
                with self._lock:
                    self.of[key(*arguments, **options)] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, counted)

    def _leave_out(self, monkeypatch, owner: object, name: str) -> None:
        original = getattr(owner, name)

        def uncounted(*arguments, **options):
            self._paused.now = True
            try:
                return original(*arguments, **options)
            finally:
                self._paused.now = False

        monkeypatch.setattr(owner, name, uncounted)

    def command(self, *options: str) -> dict[str, int]:
        """What a command does."""
        self.of.clear()
        main([*COPY, *options])
        return dict(self.of)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    return prepared(tmp_path, monkeypatch)


def _operations(folder: Path) -> tuple[int, list[dict]]:
    """The number of synthetic cases, and the operations of all of them."""
    cases = read_manifest(folder)["cases"].values()
    return len(cases), [operation for case in cases for operation in case["operations"]]


def _moves(operation: dict) -> bool:
    """Whether a lesion's mask is interpolated (all cases have one spacing)."""
    return bool(operation["transform"]["angle"]) or not np.isclose(operation["transform"]["scale"], 1)


@pytest.mark.parametrize("volumes", [False, True])
def test_a_command_reads_each_host_once_and_warps_each_lesion_once(folders, monkeypatch, volumes):
    folder = make_dataset(folders[0], patients=6, volumes=volumes, emphysema_every=2)
    done = Counts(monkeypatch).command(*MASKS)
    cases, operations = _operations(folder)
    classes = {operation["pathology"] for operation in operations}
    assert cases >= 2
    assert len(operations) > cases
    assert done == {
        "labels read": cases,
        "masks warped": sum(map(_moves, operations)),
        "textures warped": len(operations),
        # hosts, donors, and one for each row of the preview; in volumes the slices beside the painted ones
        "images read": cases + len(operations) + len(classes) + (cases if volumes else 0),
        # at the start, under the lock of the injection, by both audits with its copy, and by the report and its own
        "manifests read": 10,
    }


def test_the_manifest_is_read_once_where_nothing_changes(folders, monkeypatch):
    make_dataset(folders[0], patients=6, emphysema_every=2)
    main([*COPY, *MASKS])
    counts = Counts(monkeypatch)
    assert counts.command(*MASKS)["manifests read"] == 3  # one, and the audit's two
    assert counts.command("--method", "cbmat", "--preset", "fast", "--epochs", "1", "--dry-run")["manifests read"] == 3


def _staged(folder: Path) -> dict[str, str]:
    """The synthetic cases' files with their hashes."""
    return {name: entry["after"] for name, entry in read_manifest(folder)["files"].items() if "difflung_" in name}


def test_cases_that_memory_does_not_hold_are_applied_again_with_the_same_result(tmp_path, monkeypatch):
    """Ten single slices in batches of eight: seven wait for an eighth to complete a batch; memory holds three."""
    labels_read, files, sizes = [], [], []
    for name, held in (("all", None), ("three", 3)):
        with monkeypatch.context() as patch:
            folder = make_dataset(prepared(tmp_path / name, patch)[0], patients=6, emphysema_every=2)
            if held:
                patch.setattr(painter_module, "_WAITING_BYTES", held * max(sizes))
            kept = painter_module._Waiting.add

            def add(waiting, applied, kept=kept, held=held):
                kept(waiting, applied)
                sizes.append(sum(case.bytes for case in waiting.cases.values()) // len(waiting.cases))
                assert held is None or len(waiting.cases) <= held

            patch.setattr(painter_module._Waiting, "add", add)
            labels_read.append(Counts(patch).command(*MASKS)["labels read"])
            files.append(_staged(folder))
    assert files[0] == files[1]
    assert labels_read == [10, 10 + 4], "four of the seven are let go before their batch is complete"


class SideBySide(Share):
    """One of several processes; it fails, instead of waiting for ever, once another one has failed."""

    failed = threading.Event()

    def wait_until(self, done) -> None:
        while not done():
            assert not self.failed.wait(0.05), "another process failed"


@pytest.mark.parametrize("number", [2, 3])
def test_several_processes_apply_each_case_as_often_as_two(tmp_path, monkeypatch, number):
    """Once for the sizes of its jobs, without textures, and once for the jobs; all lesions' textures are moved once."""
    make_dataset(prepared(tmp_path, monkeypatch)[0], patients=6, emphysema_every=2)
    settings = settings_from(parse([*COPY, *MASKS]))
    raw = open_raw_dataset("801")
    fold = fold_module.prepare_fold(raw, 0, settings, build_cache(raw, tmp_path / "cache", progress=False))
    alone = fold_module.synthesize_fold(fold, "cpu", progress=False)[1]
    hashes = {case.identifier: [sha256(file) for file in (*case.images, case.label)] for case in alone.staged}
    discard_work(fold.work)
    counts = Counts(monkeypatch)

    def part(index: int) -> SynthesisResult:
        try:
            return fold_module.synthesize_fold(fold, "cpu", progress=False, share=SideBySide(index, number, "now"))[1]
        except BaseException:
            SideBySide.failed.set()
            raise

    SideBySide.failed.clear()
    with ThreadPoolExecutor(number) as pool:
        parts = [pool.submit(part, index) for index in range(number)]
        faults = [fault for fault in (future.exception() for future in parts) if fault]
    assert faults == []
    results = [future.result() for future in parts]
    assert counts.of["labels read"] == 2 * len(fold.plan.cases) == 20
    assert counts.of["textures warped"] == sum(len(planned.operations) for planned in fold.plan.cases)
    for result in results:
        assert hashes == {case.identifier: [sha256(f) for f in (*case.images, case.label)] for case in result.staged}


class Impatient(Share):
    """A process that fails where it would wait for another one."""

    def wait_until(self, done) -> None:
        assert done(), "this process went on to wait for another one"


@pytest.mark.parametrize("index", [0, 1])
def test_each_of_two_processes_refuses_a_newer_record_before_it_paints(tmp_path, monkeypatch, index):
    make_dataset(prepared(tmp_path, monkeypatch)[0], patients=6, emphysema_every=2)
    settings, raw = settings_from(parse([*COPY, *MASKS])), open_raw_dataset("801")
    fold = fold_module.prepare_fold(raw, 0, settings, build_cache(raw, tmp_path / "cache", progress=False))
    record = fold.work / "cases" / "try0" / f"{synthetic_id(fold, fold.plan.cases[1])}.json"
    write_json(record, {"format": 9, "quality": {}, "memorisation": {}})
    tidied = [fold.work / "tidied" / "now"] if index else []  # by the first process, for which the other one waits
    for path in tidied:
        write_bytes(path, b"")
    with pytest.raises(BadInput, match=f"{record} has format 9"):
        fold_module.synthesize_fold(fold, "cpu", progress=False, share=Impatient(index, 2, "now"))
    assert [path for path in fold.work.rglob("*") if path.is_file()] == [record, *tidied]


class CountingFacts(dict):
    """Facts of cases that count how often they are looked up."""

    lookups = 0

    def __getitem__(self, identifier):
        self.lookups += 1
        return super().__getitem__(identifier)


def test_the_facts_of_a_fold_are_gathered_once_however_many_cases_are_planned(tmp_path, monkeypatch):
    make_dataset(prepared(tmp_path, monkeypatch)[0], patients=6, emphysema_every=2)
    settings, raw = settings_from(parse([*COPY, *MASKS])), open_raw_dataset("801")
    fold = fold_module.prepare_fold(raw, 0, settings, build_cache(raw, tmp_path / "cache", progress=False))
    assert len(fold.plan.cases) > 1
    fold.cache.facts = facts = CountingFacts(fold.cache.facts)
    estimate_bytes(fold)
    assert fold.work == fold.work
    assert facts.lookups == len(fold.data.training_cases)


def test_what_was_painted_for_other_patients_is_not_taken_up(tmp_path, monkeypatch):
    """The spread between patients decides how lesions are drawn and judged; the ids of cases stay."""
    make_dataset(prepared(tmp_path, monkeypatch)[0], patients=6, emphysema_every=2)
    settings, raw = settings_from(parse([*COPY, *MASKS])), open_raw_dataset("801")
    cache = build_cache(raw, tmp_path / "cache", progress=False)
    renamed = {case: f"other {patient}" for case, patient in raw.patients.items()}
    joined = dict.fromkeys(raw.patients, "one")

    def of_patients(patients):
        listed = [raw.splits[0]]  # the same fold whoever the patients are
        return replace(raw, reading=replace(raw.reading, patients=patients), listed_splits=listed)

    plans = {}
    for name, patients in {"now": raw.patients, "renamed": renamed, "joined": joined}.items():
        plans[name] = fold_module.prepare_fold(of_patients(patients), 0, settings, cache)
    assert plans["now"].key == plans["renamed"].key == plans["joined"].key
    assert plans["now"].work == plans["renamed"].work != plans["joined"].work
