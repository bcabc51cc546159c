"""One definition of "the same settings": for a generator's folder, the cases in a dataset, and painted work."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from dataclasses import asdict, fields, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import SimpleITK as sitk
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nnunet_difflung.commands.augment import main, parse, settings_from
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.config import Settings, differences, identity, preset
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator import training
from nnunet_difflung.generator.checkpoint import NEWEST, TrainingState, load_checkpoint, save_checkpoint
from nnunet_difflung.generator.families import trained_family_of
from nnunet_difflung.generator.store import CARD, load_generator, record_files
from nnunet_difflung.generator.training import has_unknown_spacing, resolve, spacing_of, train_generator
from nnunet_difflung.injection.inject import inject
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.methods import METHODS
from nnunet_difflung.pipeline import augment as augment_module
from nnunet_difflung.pipeline.fold import note_unknown_spacing, record_training_files
from nnunet_difflung.runtime.files import json_bytes, read_json, write_json
from tests.support.commands import AS_EARLIER, OPTIONS, prepared
from tests.support.generators import CBMAT, TINY, open_data
from tests.support.staging import stage_cases
from tests.support.tiny import make_dataset, tree_hashes

LATER = (
    ("sampling", "resamplings"),
    ("sampling", "candidates"),
    ("sampling", "selection"),
    ("sampling", "level"),
    ("sampling", "styles"),
    ("sampling", "edge"),
    ("sampling", "box"),
    ("sampling", "exclude"),
    ("balance", "placement"),
    ("balance", "target_multiple"),
    ("balance", "placebo"),
    ("balance", "hosts"),
    ("balance", "order"),
    ("balance", "fibrosis_share"),
    ("generator", "ablated_classes"),
    ("generator", "neighbours"),
    ("generator", "correlation_mm"),
)
BF16 = replace(TINY, precision="bf16")


def changed(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return "bf16" if value == "fp32" else value + "_other"
    if isinstance(value, dict):
        return {**value, "ILD": 0.5}
    return ((1.0, 2.0),) if value != ((1.0, 2.0),) else ()


def test_every_setting_counts_but_those_that_are_only_recorded():
    settings = replace(preset("fast"), method="pix2pix")
    for part in ("generator", "sampling", "balance"):
        values = getattr(settings, part)
        for field in fields(values):
            value = 7 if getattr(values, field.name) is None else changed(getattr(values, field.name))
            other = replace(settings, **{part: replace(values, **{field.name: value})})
            recorded_only = (part, field.name) in {
                ("generator", "precision"),
                ("sampling", "precision"),
                ("sampling", "batch_size"),
            }
            assert (other.identity() == settings.identity()) == recorded_only, (part, field.name)
            painted_alike = recorded_only or field.name == "exclude"  # which is applied to what has been painted
            assert (other.hash() == settings.hash()) == painted_alike, (part, field.name)
            assert other.as_dict() != settings.as_dict(), "recorded all the same"
    assert replace(settings, method="spade").identity() != settings.identity()
    assert replace(settings, preset="other").identity() == settings.identity()


@pytest.mark.parametrize(
    ("words", "idle"),
    [
        (["--method", "copy_paste"], ["--patch-size", "64"]),
        (["--method", "cbmat", "--paint", "full"], ["--margin", "7"]),
        (["--preset", "paper"], ["--margin", "7"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_options_without_effect_are_named_and_make_no_other_run(words, idle, capsys):
    usual, other = (settings_from(parse(["-d", "801", "-device", "cpu", *words, *more])) for more in ((), idle))
    assert f"{idle[0]} has no effect" in capsys.readouterr().err
    assert other.identity() == usual.identity() == identity(other.as_dict())
    assert other.hash() != usual.hash(), "by which earlier versions named what they painted"
    with_effect = [settings_from(parse(["-d", "801", "-device", "cpu", "--method", "cbmat", *w])) for w in ([], idle)]
    assert with_effect[0].identity() != with_effect[1].identity()
    assert "has no effect" not in capsys.readouterr().err


def test_cases_of_another_option_without_effect_are_there_already_or_taken_up(tmp_path, monkeypatch, capsys):
    import nnunet_difflung.pipeline.augment as module

    folders = prepared(tmp_path, monkeypatch)
    make_dataset(folders[0], patients=4, folds=2)
    options = ["-d", "801", "-f", "0", "--method", "copy_paste", "--gate", "report", "-device", "cpu"]
    options += ["--max-synthetic", "3", "--patch-size", "64"]
    times = []
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(module, "inject", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                main(options)
        times.append({path: path.stat().st_mtime_ns for path in folders[2].rglob("synthesis_*/imagesTr/*")})
    assert times[0] == times[1] != {}, "painted once"
    assert main(options) == 0
    capsys.readouterr()
    assert main(options[:-2]) == 0
    assert "nothing to do" in capsys.readouterr().out


def test_what_was_painted_before_an_option_was_changed_goes_once_the_fold_has_its_cases(tmp_path, monkeypatch, capsys):
    import nnunet_difflung.pipeline.augment as module

    folders = prepared(tmp_path, monkeypatch)
    make_dataset(folders[0], patients=4, folds=2)
    options = ["-d", "801", "-f", "0", "--method", "copy_paste", "--gate", "report", "-device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "inject", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main([*options, "--max-synthetic", "3"])
    fold = folders[2] / "Dataset801_Tiny" / "DiffLung__copy_paste" / "fold_0"
    (work,) = fold.glob("synthesis_*")
    (fold / "synthesis_mine").mkdir()
    assert main([*options, "--max-synthetic", "2"]) == 0
    assert [path.name for path in fold.glob("synthesis_*")] == ["synthesis_mine"]
    work.mkdir()  # as if that command had been ended while it deleted
    assert main([*options, "--max-synthetic", "2"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert [path.name for path in fold.glob("synthesis_*")] == ["synthesis_mine"]


def as_recorded_earlier(content: dict) -> dict:
    """Settings without those that earlier versions did not have."""
    for part, name in LATER:
        del content[part][name]
    return content


def test_settings_of_an_earlier_version_are_those_by_which_it_worked():
    settings = preset("fast")
    content = as_recorded_earlier(settings.as_dict())
    earlier = replace(
        settings,
        sampling=replace(settings.sampling, level="donor", styles="real", edge="painted"),
        balance=replace(settings.balance, placement="uniform", target_multiple=None, placebo=0.0, hosts="any"),
    )
    assert identity(content) == earlier.identity()
    other = replace(earlier, balance=replace(earlier.balance, placement="real", placebo=0.5))
    assert differences(identity(content), other.identity()) == [
        "placement was uniform, is now real",
        "placebo was 0.0, is now 0.5",
    ]
    assert differences(other.identity(), identity(content)) == [
        "placement was real, is now uniform",
        "placebo was 0.5, is now 0.0",
    ]


@pytest.fixture
def data(tmp_path, monkeypatch):
    return open_data(tmp_path, monkeypatch)


def begun_at(monkeypatch) -> list[int]:
    """The steps from which trainings go on."""
    real, steps = training.load_checkpoint, []

    def load(state, *others):
        note = real(state, *others)
        steps.append(state.step)
        return note

    monkeypatch.setattr(training, "load_checkpoint", load)
    return steps


def test_a_training_goes_on_in_another_precision(data, tmp_path, monkeypatch):
    steps = begun_at(monkeypatch)
    train_generator(data, CBMAT, BF16, tmp_path / "g", progress=False, save_every=0, stop_after=2)
    train_generator(data, CBMAT, TINY, tmp_path / "g", progress=False, save_every=0, stop_after=3)
    train_generator(data, CBMAT, BF16, tmp_path / "g", progress=False)
    assert steps == [0, 2, 3]
    assert load_generator(tmp_path / "g").config.precision == "bf16", "recorded"
    before = tree_hashes(tmp_path / "g")
    train_generator(data, CBMAT, TINY, tmp_path / "g", progress=False)
    assert tree_hashes(tmp_path / "g") == before
    with pytest.raises(BadInput, match="other settings.*epochs was 2, is now 3"):
        train_generator(data, CBMAT, replace(TINY, epochs=3), tmp_path / "g", progress=False)
    with pytest.raises(BadInput, match="other settings.*method was cbmat, is now mat"):
        train_generator(data, METHODS["mat"], TINY, tmp_path / "g", progress=False)


def as_commit_b369f62_left_it(folder: Path) -> None:
    """Puts the hash of the whole configuration, its precision included, into card and checkpoint."""
    card = read_json(folder / CARD)
    data = {k: v for k, v in card.items() if k not in ("config", "versions", "settings", "finished", "weights_sha256")}
    former = hashlib.sha256(json_bytes([card["config"], data])).hexdigest()
    write_json(folder / CARD, {**card, "settings": former})
    if (folder / NEWEST).is_file():
        with safe_open(folder / NEWEST, "pt") as file:
            metadata = {**file.metadata(), "settings": former}
        save_file(load_file(folder / NEWEST), folder / NEWEST, metadata)


@pytest.mark.parametrize("then", [BF16, TINY], ids=lambda config: config.precision)
def test_an_unfinished_training_of_an_earlier_version_goes_on(data, tmp_path, monkeypatch, then):
    steps = begun_at(monkeypatch)
    train_generator(data, CBMAT, BF16, tmp_path, progress=False, save_every=0, stop_after=2)
    as_commit_b369f62_left_it(tmp_path)
    train_generator(data, CBMAT, then, tmp_path, progress=False, save_every=3600, stop_after=3)
    (tmp_path / NEWEST).unlink()  # killed before its first checkpoint: the earlier version's is still the last
    train_generator(data, CBMAT, then, tmp_path, progress=False)
    assert steps == [0, 2, 2]
    as_commit_b369f62_left_it(tmp_path)
    before = tree_hashes(tmp_path)
    train_generator(data, CBMAT, TINY, tmp_path, progress=False)
    assert tree_hashes(tmp_path) == before


def test_precision_makes_no_other_cases_and_no_other_generator(tmp_path, monkeypatch, capsys):
    folders = prepared(tmp_path, monkeypatch)
    folder = make_dataset(folders[0], patients=4, folds=2)
    options = [*OPTIONS, "-f", "0", "--precision"]
    assert main([*options, "fp32"]) == 0
    generator = folders[2] / folder.name / "DiffLung__difflung" / "fold_0"
    weights = load_generator(generator).hash
    capsys.readouterr()
    assert main([*options, "bf16"]) == 0
    assert "nothing to do" in capsys.readouterr().out
    remove(["-d", "801"])
    assert main([*options, "bf16"]) == 0
    assert load_generator(generator).hash == weights
    assert load_generator(generator).config.precision == "fp32"
    run = read_manifest(folder)["runs"][0]
    assert run["settings"]["sampling"]["precision"] == "bf16", "recorded"
    assert main([*options, "fp32"]) == 0


def test_painted_work_of_another_precision_or_an_earlier_version_is_taken_up(tmp_path, monkeypatch):
    import nnunet_difflung.pipeline.augment as module

    folders = prepared(tmp_path, monkeypatch)
    make_dataset(folders[0], patients=4, folds=2)
    options = [*OPTIONS, "-f", "0", "--method", "cbmat", *AS_EARLIER, "--precision"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "inject", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main([*options, "bf16"])
    fold = folders[2] / "Dataset801_Tiny" / "DiffLung__cbmat" / "fold_0"
    (work,) = fold.glob("synthesis_*")
    settings = settings_from(parse([*options, "bf16"]))
    content = as_recorded_earlier(settings.as_dict())  # as it was hashed, precision and preset included
    former = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    former_work = work.with_name(f"synthesis_{former}_{work.name.rsplit('_', 1)[1]}")
    work.rename(former_work)
    times = {path: path.stat().st_mtime_ns for path in former_work.rglob("*.npy")}
    assert times
    with monkeypatch.context() as patch:
        patch.setattr(module, "inject", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main([*options, "fp32"])
    assert list(fold.glob("synthesis_*")) == [former_work]
    assert {path: path.stat().st_mtime_ns for path in former_work.rglob("*.npy")} == times, "not painted again"
    assert main([*options, "fp32"]) == 0
    assert not list(fold.glob("synthesis_*"))


def test_injecting_the_cases_of_another_precision_again_changes_nothing(tmp_path, monkeypatch):
    folders = prepared(tmp_path, monkeypatch)
    make_dataset(folders[0])
    raw = open_raw_dataset("801")
    cases, run = stage_cases(raw)

    def settings(**changes) -> dict:
        base = preset("fast")
        return Settings(replace(base.generator, **changes), base.sampling, base.balance).as_dict()

    inject(raw, cases, {**run, "settings": settings(precision="bf16")})
    inject(raw, cases, {**run, "settings": settings()})
    with pytest.raises(BadInput, match="other settings"):
        inject(raw, cases, {**run, "settings": settings(epochs=3)})


def test_what_is_recorded_reads_as_it_did():
    content = preset("fast").as_dict()
    assert list(content) == ["generator", "sampling", "balance", "preset"]
    assert list(content["generator"])[0] == "method"
    for name, method in (("fast", "difflung"), ("paper", "cbmat")):
        content = preset(name).as_dict()
        assert content["generator"] == {"method": method, **json.loads(json.dumps(asdict(preset(name).generator)))}


def test_a_checkpoint_of_other_settings_is_not_loaded(data, tmp_path):
    def state() -> TrainingState:
        return trained_family_of(CBMAT).new_state(TINY, 1, 3, torch.device("cpu"))

    saved = state()
    saved.step = 3
    save_checkpoint(saved, tmp_path, "these")
    for settings, step in (("these", 3), ("others", 0)):
        restored = state()
        assert load_checkpoint(restored, tmp_path, settings) is None
        assert restored.step == step


def test_a_generator_trained_on_what_a_case_held_before_is_refused(data, tmp_path):
    """The file is replaced by another of the same size and time."""
    train_generator(data, CBMAT, TINY, tmp_path / "g", progress=False)
    raw = open_raw_dataset("801")
    assert read_json(tmp_path / "g" / CARD)["training_files"] == data.files()
    path = Path(raw.cases[data.training_cases[0]].label)
    status, label = path.stat(), sitk.ReadImage(str(path))
    label[0, 0, 0] = 1
    sitk.WriteImage(label, str(path), True)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    cache = build_cache(raw, data.cache.folder, progress=False)
    with pytest.raises(BadInput, match="other training data"):
        train_generator(replace(data, cache=cache), CBMAT, TINY, tmp_path / "g", progress=False)


def with_spacing(data, mm: float):
    """The data once a header of two training cases has been corrected to this size of pixels."""
    raw = open_raw_dataset("801")
    for identifier in data.training_cases[:2]:
        for path in (*raw.cases[identifier].images, raw.cases[identifier].label):
            image = sitk.ReadImage(str(path))
            image.SetSpacing((mm, mm, 5.0))
            sitk.WriteImage(image, str(path), True)
    return replace(data, cache=build_cache(raw, data.cache.folder, progress=False))


def test_a_generator_trained_on_regions_is_refused_once_a_header_was_corrected(data, tmp_path):
    train_generator(data, METHODS["difflung"], TINY, tmp_path / "g", progress=False)
    train_generator(data, CBMAT, TINY, tmp_path / "cbmat", progress=False)
    card = read_json(tmp_path / "g" / CARD)
    assert card["spacing"] == [[0.8, 0.8]] * len(data.training_cases)
    now = with_spacing(data, 1.25)
    with pytest.raises(BadInput, match="other training data .other spacing.; .*delete that folder to train again"):
        train_generator(now, METHODS["difflung"], TINY, tmp_path / "g", progress=False)
    config = resolve(METHODS["difflung"], TINY, now)
    record_files(tmp_path / "g", now.files(), spacing_of(now, METHODS["difflung"], config))
    assert read_json(tmp_path / "g" / CARD) == card, "what it was trained on"
    train_generator(now, CBMAT, TINY, tmp_path / "cbmat", progress=False)  # it never sees the size of voxels


def test_a_card_that_does_not_say_the_spacing_is_accepted_and_completed_if_the_files_are_the_same(
    data, tmp_path, capsys
):
    method, config = METHODS["difflung"], resolve(METHODS["difflung"], TINY, data)
    train_generator(data, method, TINY, tmp_path, progress=False)
    card = read_json(tmp_path / CARD)
    earlier = {key: value for key, value in card.items() if key != "spacing"}
    write_json(tmp_path / CARD, earlier)
    assert not has_unknown_spacing(data, method, TINY, tmp_path)
    train_generator(data, method, TINY, tmp_path, progress=False)
    record_files(tmp_path, data.files(), spacing_of(data, method, config))
    assert read_json(tmp_path / CARD) == card
    write_json(tmp_path / CARD, earlier)
    now = with_spacing(data, 1.25)
    train_generator(now, method, TINY, tmp_path, progress=False)
    assert has_unknown_spacing(now, method, TINY, tmp_path)
    fold = SimpleNamespace(method=method, data=now, folder=tmp_path, settings=SimpleNamespace(generator=TINY))
    for _ in range(2):
        record_training_files(fold)
        assert read_json(tmp_path / CARD)["spacing"] is None, "nobody knows it"
        assert has_unknown_spacing(now, method, TINY, tmp_path)
    note_unknown_spacing([fold])
    assert f"{tmp_path}: trained by an earlier version, which did not record how large" in capsys.readouterr().err
    train_generator(now, method, TINY, tmp_path, progress=False)
    fold.method = CBMAT
    note_unknown_spacing([fold])
    assert "earlier version" not in capsys.readouterr().err


def test_a_run_notes_which_generators_may_have_learned_another_spacing(tmp_path, monkeypatch):
    make_dataset(prepared(tmp_path, monkeypatch)[0], patients=4, slices=1, folds=2)
    noted = []
    monkeypatch.setattr(augment_module, "note_unknown_spacing", lambda folds: noted.extend(f.number for f in folds))
    main(["-d", "801", "-f", "0", "1", "--method", "copy_paste", "--max-synthetic", "1", "--gate", "report"])
    assert noted == [0, 1]


def test_a_generator_is_used_on_if_a_case_was_only_written_again(data, tmp_path):
    train_generator(data, CBMAT, TINY, tmp_path / "g", progress=False)
    raw = open_raw_dataset("801")
    path = raw.cases[data.training_cases[0]].label
    Path(path).write_bytes(gzip.compress(gzip.decompress(Path(path).read_bytes()), 1))
    again = replace(data, cache=build_cache(raw, data.cache.folder, progress=False))
    assert again.files() != data.files()
    train_generator(again, CBMAT, TINY, tmp_path / "g", progress=False)
    record_files(tmp_path / "g", again.files())
    assert read_json(tmp_path / "g" / CARD)["training_files"] == again.files()
    assert load_generator(tmp_path / "g").training_cases == data.training_cases
