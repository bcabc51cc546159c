"""Synthetic files keep the relations between channels, whatever method paints them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnunet_difflung.commands.augment import main, parse, settings_from
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.channels import Relations
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.painting import attempt as attempt_module
from nnunet_difflung.paths import results_folder
from nnunet_difflung.pipeline import fold as fold_module
from nnunet_difflung.preparing.fold import Fold
from nnunet_difflung.runtime.files import read_json, write_json
from tests.support.commands import prepared
from tests.support.tiny import make_dataset

OPTIONS = ["-d", "801", "-f", "0", "--gate", "report", "-device", "cpu", "--max-synthetic", "3"]
MODES = {"RGB": ("R", "G", "B"), "RGBA": ("R", "G", "B", "A")}


def make_pictures(raw_folder: Path, mode: str, window: tuple[int, int] = (-1024, 476)) -> Path:
    """A tiny dataset of grey pictures of 8 bits, stored in colours."""
    folder = make_dataset(raw_folder, patients=4, emphysema_every=2, file_ending=".png")
    for path in (folder / "imagesTr").iterdir():
        hu = np.array(Image.open(path)).astype(float) - 1024
        grey = np.clip((hu - window[0]) / (window[1] - window[0]) * 255, 0, 255).astype(np.uint8)
        Image.fromarray(grey).convert(mode).save(path)
    content = json.loads((folder / "dataset.json").read_text())
    content["channel_names"] = {str(number): name for number, name in enumerate(MODES[mode])}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def prepare(tmp_path: Path, options: list[str]) -> Fold:
    raw = open_raw_dataset("801")
    cache = build_cache(raw, tmp_path / "cache", progress=False)
    return fold_module.prepare_fold(raw, 0, settings_from(parse([*OPTIONS, *options])), cache)


def noise(jobs, method, generator, sampling, device):
    """Stands in for a network: every channel of every voxel at random within its window."""
    low, high = np.array(generator.config.windows).T[..., None, None]
    rng = np.random.default_rng(jobs[0].index)
    shapes = [tuple(part.stop - part.start for part in job.crop) for job in jobs]
    return [low + (high - low) * rng.random((len(low), *shape)) for shape in shapes]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("method", "paint"),
    [
        ("cbmat", "composite"),
        ("cbmat", "full"),
        ("spade", "composite"),
        ("harmonise", "composite"),
        ("copy_paste", ""),
        ("difflung", "composite"),
    ],
)
def test_grey_pictures_in_colours_stay_grey(tmp_path, monkeypatch, mode, method, paint):
    make_pictures(prepared(tmp_path, monkeypatch)[0], mode)
    fold = prepare(tmp_path, ["--method", method, *(["--paint", paint] if paint else [])])
    if method != "copy_paste":
        write_json(fold.folder / "generator.json", {"format": 1, "weights_sha256": "a" * 64, "finished": True})
        monkeypatch.setattr(fold_module, "load_generator", lambda folder, device: fold_module._without_network(fold))
        monkeypatch.setattr(attempt_module, "paint_jobs", noise)
    _, result = fold_module.synthesize_fold(fold, "cpu", progress=False)
    assert result.staged
    for case in result.staged:
        picture, host = Image.open(case.images[0]), Image.open(fold.raw.cases[case.record["host"]].images[0])
        assert picture.mode == host.mode == mode
        values = np.array(picture)
        assert (values[..., 1:3] == values[..., :1]).all(), "coloured voxels mark the lesion"
        assert (values[..., 3:] == 255).all()
        assert (values != np.array(host)).any()
    for row in [case.record["quality"] for case in result.staged]:
        assert all(pair["passes"] for of_class in row.values() for pair in of_class["pairs"])


def test_the_key_depends_on_the_relations_and_is_as_before_without(tmp_path, monkeypatch):
    make_pictures(prepared(tmp_path, monkeypatch)[0], "RGB")
    fold = prepare(tmp_path, ["--method", "copy_paste"])
    free, other = replace(fold, relations=Relations()), replace(fold, relations=Relations(fold.relations.channels[:2]))
    assert len({fold.key, free.key, other.key}) == 3
    former = fold.own_folder / f"synthesis_{fold.settings.hash()}_{free._former_key}"
    former.mkdir(parents=True)
    assert free.begun_by_earlier_version
    assert not fold.begun_by_earlier_version, "what an earlier version painted may be coloured"
    assert former in fold.begun_works()


def test_one_ordinary_channel_has_no_relations_in_key_and_records(tmp_path, monkeypatch):
    make_dataset(prepared(tmp_path, monkeypatch)[0], patients=4, emphysema_every=2)
    fold = prepare(tmp_path, ["--method", "copy_paste"])
    assert not fold.relations
    assert fold.key == replace(fold, relations=Relations()).key


def test_the_command_records_and_says_what_it_did(tmp_path, monkeypatch, capsys):
    folder = make_pictures(prepared(tmp_path, monkeypatch)[0], "RGBA")
    main([*OPTIONS, "--method", "copy_paste"])
    said = capsys.readouterr().out
    assert "channel 1 (G) equals channel 0 (R) in all training cases, so channel 0 (R) is painted and copied" in said
    assert "channel 3 (A) has the same value everywhere in each training case, so it is not painted" in said
    assert "channels 1 (G), 2 (B) and 3 (A): not judged, since the values are set, not painted" in said
    kinds = ["free", "copy", "copy", "constant"]
    assert [row["kind"] for row in read_manifest(folder)["runs"][0]["channels"]] == kinds
    report = read_json(results_folder("Dataset801_Tiny", "copy_paste") / "augment_report.json")
    assert [row["kind"] for row in report["folds"][0]["channels"]] == kinds
    assert (results_folder("Dataset801_Tiny", "copy_paste") / "preview.png").is_file()
    main([*OPTIONS, "--method", "copy_paste"])
    assert "already holds these synthetic cases" in capsys.readouterr().out


def test_a_lung_mask_beside_ct_passes_the_gate(tmp_path, monkeypatch):
    """Its class is constant in the mask; such a channel never lets a case fail."""
    folder = make_dataset(
        prepared(tmp_path, monkeypatch)[0], patients=6, emphysema_every=2, channels=2, dtype="float32"
    )
    import SimpleITK as sitk

    for path in sorted((folder / "imagesTr").glob("*_0001.nii.gz")):
        label = sitk.ReadImage(str(folder / "labelsTr" / path.name.replace("_0001", "")))
        sitk.WriteImage(sitk.Cast(label > 0, sitk.sitkFloat32), str(path))
    fold = prepare(tmp_path, ["--method", "copy_paste", "--gate", "drop"])
    _, result = fold_module.synthesize_fold(fold, "cpu", progress=False)
    assert result.staged
    for case in result.staged:
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(case.images[1])))
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(case.label)))
        assert np.array_equal(mask, label > 0)
        assert all(of_class["channels"][1]["bias"] == 0 for of_class in case.record["quality"].values())
