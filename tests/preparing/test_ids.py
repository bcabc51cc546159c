"""Ids of synthetic cases: equal runs give equal ids, and no other run ever gives them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk

from nnunet_difflung.commands.augment import main, parse, settings_from
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.config import Settings
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.headers import grid_of
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.injection.manifest import is_identifier, read_manifest
from nnunet_difflung.painting.cases import synthetic_id
from nnunet_difflung.pipeline.fold import prepare_fold, synthesize_fold
from nnunet_difflung.preparing import fold as fold_module
from nnunet_difflung.preparing.fold import Fold, discard_work
from nnunet_difflung.runtime.files import json_bytes, sha256, write_json
from tests.support.commands import prepared
from tests.support.tiny import make_dataset

OPTIONS = [
    "-d",
    "801",
    "-f",
    "0",
    "--method",
    "copy_paste",
    "--gate",
    "report",
    "-device",
    "cpu",
    "--max-synthetic",
    "3",
]
TRAINING, VALIDATION = "lung_002_s00", "lung_001_s00"  # of fold 0


@pytest.fixture
def prepare(tmp_path, monkeypatch) -> Callable[..., Fold]:
    """Fold 0 as a command would prepare it from what the dataset holds now."""
    folders = prepared(tmp_path, monkeypatch)
    make_dataset(folders[0], patients=4, emphysema_every=2)

    def prepared_fold(settings: Settings | None = None) -> Fold:
        raw = open_raw_dataset("801")
        cache = build_cache(raw, tmp_path / "cache", progress=False)
        return prepare_fold(raw, 0, settings or settings_from(parse(OPTIONS)), cache)

    return prepared_fold


def ids(fold: Fold) -> list[str]:
    return [synthetic_id(fold, planned) for planned in fold.plan.cases]


def darken(fold: Fold, case: str) -> None:
    """Changes a voxel of a case that no plan looks at."""
    path = fold.raw.cases[case].images[0]
    image = sitk.ReadImage(path)
    image[0, 0, 0] = image[0, 0, 0] - 1
    sitk.WriteImage(image, path, True)


def test_the_same_run_gives_the_same_ids_and_any_other_run_others(prepare):
    first = ids(prepare())
    assert len(set(first)) == len(first) > 1
    assert all(is_identifier(name) for name in first)
    assert first == sorted(first)
    assert ids(prepare()) == first
    settings = settings_from(parse(OPTIONS))
    others = [
        replace(settings, balance=replace(settings.balance, seed=7)),
        replace(settings, sampling=replace(settings.sampling, margin=7)),
        replace(settings, sampling=replace(settings.sampling, gate="off")),
    ]
    every = [ids(prepare(other)) for other in others]
    assert not set(first).intersection(*every)
    assert len({name for names in (first, *every) for name in names}) == sum(map(len, (first, *every)))


def test_what_training_cases_hold_is_in_the_ids_and_what_validation_cases_hold_is_not(prepare):
    fold = prepare()
    darken(fold, VALIDATION)
    assert ids(prepare()) == ids(fold)
    darken(fold, TRAINING)
    after = prepare()
    assert [p.as_record() for p in after.plan.cases] == [p.as_record() for p in fold.plan.cases]
    assert not set(ids(after)) & set(ids(fold))
    assert after.work != fold.work, "what was painted from the earlier voxels is not used"


def test_another_generator_gives_other_ids(prepare):
    settings = replace(settings_from(parse(OPTIONS)), method="cbmat")
    keys = []
    for weights in ("a" * 64, "b" * 64, "a" * 64):
        fold = prepare(settings)
        write_json(fold.folder / "generator.json", {"weights_sha256": weights, "finished": True})
        keys.append((fold.key, fold.work))
    assert keys[0] == keys[2]
    assert keys[0][0] != keys[1][0]
    assert keys[0][1] != keys[1][1]


def test_no_voxel_depends_on_the_id(prepare, monkeypatch):
    files = []
    for output in (1, 2):
        monkeypatch.setattr(fold_module, "_OUTPUT", output)
        fold = prepare()
        staged = synthesize_fold(fold, "cpu", progress=False)[1].staged
        files.append({case.identifier: [sha256(path) for path in (*case.images, case.label)] for case in staged})
        discard_work(fold.work)
    assert len(files[0]) > 1
    assert list(files[0].values()) == list(files[1].values())
    assert not files[0].keys() & files[1].keys()


def test_work_that_an_earlier_version_began_is_finished_under_its_ids(prepare):
    fold = prepare()
    content = [{i: f.content for i, f in fold.facts.items()}, [planned.as_record() for planned in fold.plan.cases]]
    former = (
        fold.own_folder / f"synthesis_{fold.settings.hash()}_{hashlib.sha256(json_bytes(content)).hexdigest()[:12]}"
    )
    former.mkdir(parents=True)
    assert ids(prepare()) == [f"difflung_copy_paste_f0_{index:04d}" for index in range(len(fold.plan.cases))]
    discard_work(former)
    assert ids(prepare()) == ids(fold)


def reheaded(fold: Fold, cases: Iterable[str], spacing: float = 1.0, origin: float = 0.0) -> None:
    """Corrects the headers of images and labels: slices of another thickness, or at another place."""
    for case in cases:
        for path in (*fold.raw.cases[case].images, fold.raw.cases[case].label):
            image = sitk.ReadImage(path)
            image.SetSpacing((*image.GetSpacing()[:2], spacing * image.GetSpacing()[2]))
            image.SetOrigin((origin + image.GetOrigin()[0], *image.GetOrigin()[1:]))
            sitk.WriteImage(image, path, True)


@pytest.mark.parametrize("change", [{"spacing": 10.0}, {"origin": 4.0}], ids=["spacing", "origin"])
@pytest.mark.parametrize("begun", ["today", "without headers in the name", "without a key in the ids"])
def test_cases_that_were_painted_before_a_header_was_corrected_are_painted_anew(prepare, change, begun):
    fold = prepare()
    staged = synthesize_fold(fold, "cpu", progress=False)[1].staged
    work = as_earlier(fold, begun)
    assert prepare().work == work, "it is used as long as the headers are the same"
    reheaded(fold, [staged[0].record["host"]], **change)
    after = prepare()
    assert [p.as_record() for p in after.plan.cases] == [p.as_record() for p in fold.plan.cases]
    for case in synthesize_fold(after, "cpu", progress=False)[1].staged:
        host = after.raw.cases[case.record["host"]]
        for path, source in ((case.images[0], host.images[0]), (case.label, host.label)):
            assert grid_of(path) == grid_of(source)
    assert list(after.own_folder.glob("synthesis_*")) == [after.work]
    assert after.work != work


def as_earlier(fold: Fold, begun: str) -> Path:
    """The work folder with the names that an earlier version would have given it and what it holds."""
    if begun == "today":
        return fold.work
    former = fold.key if "headers" in begun else fold._former_key
    work = fold.work.rename(fold.own_folder / f"synthesis_{fold.settings.hash()}_{former}")
    for path in sorted(work.rglob(f"difflung_*_{fold.key}_*")) if "key" in begun else []:
        path.rename(path.with_name(path.name.replace(f"_{fold.key}", "")))
    return work


def test_the_size_of_a_donors_voxels_decides_and_where_it_lies_does_not(prepare):
    fold = prepare()
    hosts = {planned.host for planned in fold.plan.cases}
    (donor, *_) = sorted(set(fold.data.training_cases) - hosts)
    reheaded(fold, [donor], origin=4.0)
    assert prepare().work == fold.work
    reheaded(fold, [donor], spacing=1.5)
    after = prepare()
    assert after.key == fold.key
    assert after.work != fold.work


def test_work_of_an_earlier_version_is_not_taken_up_while_another_process_discards_it(prepare, monkeypatch):
    fold = prepare()
    synthesize_fold(fold, "cpu", progress=False)
    work = as_earlier(fold, "without headers in the name")
    monkeypatch.setattr(Fold, "_first_images", lambda self, folder: discard_work(folder) or [])
    assert prepare().work != work
    assert not work.exists()


def test_work_of_versions_that_turned_lesions_in_pixels_is_not_gone_on_with_where_pixels_are_not_square(prepare):
    fold = prepare()
    former = fold.own_folder / f"synthesis_{fold.settings.hash()}_{fold._former_key}"
    former.mkdir(parents=True)
    assert replace(fold).work == former
    for name, of_case in fold.cache.facts.items():
        fold.cache.facts[name] = replace(of_case, spacing=(5.0, 1.0, 0.8))
    stretched = replace(fold)
    assert stretched.key != fold.key
    assert stretched.work.name.endswith(stretched._place)


def test_ids_are_not_used_again_by_the_next_augmentation(prepare):
    folder = prepare().raw.folder
    seen = []
    for options in ([], ["--seed", "7"], []):
        main([*OPTIONS, *options])
        seen.append(set(read_manifest(folder)["cases"]))
        remove(["-d", "801"])
    assert seen[0] == seen[2]
    assert not seen[0] & seen[1]
    assert not list(Path(folder / "imagesTr").glob("difflung_*"))


def test_there_are_no_ids_before_the_generator_is_trained(prepare):
    """They depend on its weights: ids asked for too early would be other ones after an interruption."""
    options = [*OPTIONS[: OPTIONS.index("--method")], "--preset", "fast", *OPTIONS[OPTIONS.index("--gate") :]]
    fold = prepare(settings_from(parse(options)))
    with pytest.raises(RuntimeError, match="is not trained yet"):
        ids(fold)
    write_json(fold.folder / "generator.json", {"format": 1, "finished": False})
    with pytest.raises(RuntimeError, match="is not trained yet"):
        ids(fold)
