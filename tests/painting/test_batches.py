"""Several processes share the making and the painting of jobs: the same batches, each job made once, the same files."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest

from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.painting import attempt as attempt_module
from nnunet_difflung.painting.batches import Batches, KnownBatches, parts_of
from nnunet_difflung.painting.jobs import make_jobs
from nnunet_difflung.pipeline import fold as fold_module
from nnunet_difflung.preparing.application import apply_plan, planned_region
from nnunet_difflung.preparing.fold import discard_work
from nnunet_difflung.preparing.stacks import JobSize, sizes_of
from nnunet_difflung.runtime.files import sha256
from nnunet_difflung.runtime.share import Share
from tests.support.tiny import make_dataset

SHAPES = ((32, 32), (64, 32), (64, 64))


def random_sizes(seed: int) -> tuple[list[int], list[JobSize]]:
    """Indices of cases, one of which has no job, and sizes of their jobs."""
    rng, sizes = np.random.default_rng(seed), []
    for index in range(3, 20):
        for number in range(0 if index == 7 else int(rng.integers(1, 5))):
            slices = int(rng.integers(1, 12))
            sizes.append(JobSize(index, number, SHAPES[rng.integers(3)], slices, max(1, slices - 2)))
    return list(range(3, 20)), sizes


def batches_of(grouping: Batches, jobs) -> list[list[tuple[int, int]]]:
    found = [[job.key for job in batch] for batch in map(grouping.add, jobs) if batch]
    return found + [[job.key for job in batch] for batch in grouping.rest()]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("number", [1, 2, 3, 8])
def test_the_parts_of_all_processes_are_the_batches_of_one(seed, number):
    cases, sizes = random_sizes(seed)
    alone = batches_of(Batches(8), sizes)
    parts = parts_of(cases, sizes, 8, number)
    assert [batch for part in parts for batch in part.batches] == alone
    assert sorted(index for part in parts for index in part.measured) == cases
    last = {key[0]: part for part in parts for batch in part.batches for key in batch}
    assert all(index in part.measured for index, part in last.items()), "by whoever paints its last batch"
    assert sum(part.slices for part in parts) == sum(size.painted for size in sizes)
    pixels = {size.key: size.number_of_slices * size.shape[0] * size.shape[1] for size in sizes}
    largest = max(sum(pixels[key] for key in batch) for batch in alone)
    for part in parts:
        own = sum(pixels[key] for batch in part.batches for key in batch)
        assert own <= sum(pixels.values()) / number + largest, "about as many pixels each"
        wanted = [size for size in sizes if size.number in part.wanted.get(size.key[0], ())]
        made = batches_of(KnownBatches(part), wanted)
        assert sorted(made) == sorted(part.batches), "in the same order within a batch"


def test_a_case_waits_for_the_jobs_of_its_unfinished_batches():
    jobs = [SimpleNamespace(key=(index, 0), shape=(8, 8), number_of_slices=1, painted=1) for index in (4, 5)]
    (part,) = parts_of([4, 5], jobs, 2, 1)
    known = KnownBatches(part)
    assert known.add(jobs[0]) is None
    assert known.incomplete() == {4}
    assert known.add(jobs[1]) == jobs
    assert known.incomplete() == set()


class SideBySide(Share):
    """One of several processes; it fails, instead of waiting for ever, once another one has failed."""

    failed = threading.Event()

    def wait_until(self, done) -> None:
        while not done():
            assert not self.failed.wait(0.05), "another process failed"


@pytest.fixture
def fold(folders, tmp_path):
    """Fold 0 of volumes whose lesions are painted together, with a trained generator and two lesions a case or more."""
    make_dataset(folders[0], patients=5, size=64, volumes=True, depth=8)
    options = ["-d", "801", "-device", "cpu", "--preset", "fast", "--epochs", "1", "--steps", "2", "--gate", "report"]
    settings, raw = settings_from(parse([*options, "--target-share", "ILD=0.4"])), open_raw_dataset("801")
    fold = fold_module.prepare_fold(raw, 0, settings, build_cache(raw, tmp_path / "cache", progress=False))
    fold_module.train_fold(fold, "cpu", 60)
    return fold


def painted_by(fold, number: int) -> tuple[list[dict[str, list[str]]], Counter]:
    """Hashes of the cases as each process returns them, and how often each job was made."""
    made, lock, real = Counter(), threading.Lock(), attempt_module.make_jobs
    generator = fold_module.load_generator(fold.folder, "cpu")  # diffusers cannot load in several threads

    def counted(*arguments):
        jobs = real(*arguments)
        with lock:
            made.update(job.key for job in jobs)
        return jobs

    def part(index: int) -> dict[str, list[str]]:
        try:
            share = SideBySide(index, number, "now")
            result = fold_module.synthesize_fold(fold, "cpu", progress=False, share=share)[1]
        except BaseException:
            SideBySide.failed.set()
            raise
        return {case.identifier: [sha256(file) for file in (*case.images, case.label)] for case in result.staged}

    SideBySide.failed.clear()
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(number) as pool:
        patch.setattr(attempt_module, "make_jobs", counted)
        patch.setattr(fold_module, "load_generator", lambda *_: generator)
        hashes = list(pool.map(part, range(number)))
    discard_work(fold.work)
    return hashes, made


def test_each_job_is_made_by_one_process_and_the_files_are_those_of_one(fold):
    (alone,), of_one = painted_by(fold, 1)
    assert len(alone) == len(fold.plan.cases) >= 2
    for number in (2, 3):
        hashes, made = painted_by(fold, number)
        assert hashes == [alone] * number
        assert made == of_one, "no job is made twice"
        assert set(made.values()) == {1}


def test_sizes_are_those_of_the_jobs_that_are_made(fold):
    generator = fold_module.load_generator(fold.folder, "cpu")
    sampling, roles = fold.settings.sampling, fold.cache.roles
    for planned in fold.plan.cases:
        applied, depth = apply_plan(fold, planned, textures=True), fold.facts[planned.host].shape[0]
        region = planned_region(fold, planned, fold.cache.label)
        assert np.array_equal(region, applied.region)
        jobs, sizes = (
            make_jobs(applied, generator, roles, sampling, 0),
            sizes_of(region, planned, depth, 4, sampling, True),
        )
        assert [(job.key, job.shape, job.number_of_slices) for job in jobs] == [
            (size.key, size.shape, size.number_of_slices) for size in sizes
        ]
        painted = [sum(bool((~inputs.is_known).any()) for inputs in job.inputs) for job in jobs]
        assert painted == [size.painted for size in sizes]
        (last,) = make_jobs(applied, generator, roles, sampling, 0, {len(jobs) - 1})
        for name in ("noise", "condition", "known", "style"):
            for one, other in zip(last.inputs, jobs[-1].inputs, strict=True):
                assert np.array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("method", ["difflung", "cbmat"])
def test_what_a_slice_is_padded_with_is_known_and_noised(folders, tmp_path, method):
    make_dataset(folders[0], patients=5, size=45)
    raw, settings = open_raw_dataset("801"), settings_from(parse(["-d", "801", "--preset", "fast", "--method", method]))
    fold = fold_module.prepare_fold(raw, 0, settings, build_cache(raw, tmp_path / "cache", progress=False))
    generator, noise = fold_module._without_network(fold), []
    for planned in fold.plan.cases[:3]:
        applied = apply_plan(fold, planned, textures=True)
        for job in make_jobs(applied, generator, fold.cache.roles, settings.sampling, 0):
            (inputs,) = job.inputs
            assert inputs.is_known.shape[-2:] == (48, 48)
            assert inputs.is_known[..., 45:, :].all()
            assert inputs.is_known[..., 45:].all()
            assert not inputs.is_known.all()
            noise += [inputs.noise[:, 45:].ravel(), inputs.noise[:, :45, 45:].ravel()]
    assert np.concatenate(noise).std() == pytest.approx(1, abs=0.1)
