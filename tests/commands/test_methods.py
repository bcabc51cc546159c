"""Methods beside the plain diffusion model, through the real command: same masks, own cases, one undo."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from nnunet_difflung.audit.audit import audit_dataset
from nnunet_difflung.commands.audit import main as audit
from nnunet_difflung.commands.augment import main, parse, settings_from
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.methods import METHODS
from tests.support.commands import OPTIONS, synthetic_arrays
from tests.support.tiny import HU, LABELS, make_dataset, tree_hashes
from tests.support.training import trained_briefly

pytestmark = pytest.mark.usefixtures("fingerprint")


def _values(raw, folder, record, identifier, name):
    image, label = synthetic_arrays(raw, identifier, folder)
    changed = (label == LABELS[name]) & (raw.read_label(record["host"])[0] != LABELS[name])
    return image[0][changed]


def test_copy_paste_needs_no_generator_and_paints_real_texture(folders, capsys):
    folder = make_dataset(folders[0], size=48)
    before = tree_hashes(folder)
    main([*OPTIONS, "-f", "0", "--method", "copy_paste"])
    raw, manifest = open_raw_dataset("801"), read_manifest(folder)
    assert manifest["cases"]
    assert "nnUNetTrainerDiffLungCopyPaste" in capsys.readouterr().out
    assert not list(folders[2].rglob("*.safetensors"))
    found = np.concatenate([_values(raw, folder, record, i, "emphysema") for i, record in manifest["cases"].items()])
    assert abs(np.median(found) - HU["emphysema"][0]) < 25  # lesions of a few pixels, soft edges
    for identifier, record in manifest["cases"].items():
        image, label = synthetic_arrays(raw, identifier, folder)
        real = raw.read_image(record["host"])[0]
        assert record["method"] == "copy_paste"
        assert record["generator"] is None
        assert record["tries"] == 1
        assert (image == real).all(0)[raw.read_label(record["host"])[0] != 1].all()
    assert audit_dataset(raw.name, deep=True) == []
    remove(["-d", "801"])
    assert tree_hashes(folder) == before


def test_all_arms_get_the_same_masks_and_harmonise_takes_the_generator_of_cbmat(folders):
    folder = make_dataset(folders[0], patients=4, folds=2)
    for method in ("cbmat", "copy_paste", "harmonise"):
        main([*OPTIONS, "-f", "0", "--method", method])
    raw, cases = open_raw_dataset("801"), read_manifest(folder)["cases"]
    by_method = {
        m: sorted(i for i, c in cases.items() if c["method"] == m) for m in ("cbmat", "copy_paste", "harmonise")
    }
    assert len({len(ids) for ids in by_method.values()}) == 1
    assert by_method["cbmat"]
    for trio in zip(*by_method.values(), strict=True):
        arrays = [synthetic_arrays(raw, i, folder) for i in trio]
        assert all(np.array_equal(arrays[0][1], other[1]) for other in arrays[1:])
        assert len({a[0].tobytes() for a in arrays}) == 3
    assert cases[by_method["harmonise"][0]]["generator"] == cases[by_method["cbmat"][0]]["generator"] is not None
    assert len(list(folders[2].rglob("unet/*.safetensors"))) == 1
    assert audit_dataset(raw.name, deep=True) == []


def test_difflung_fills_lesions_into_real_slices_and_resampling_repaints_them(folders, capsys):
    folder = make_dataset(folders[0], patients=4, folds=2)
    before = tree_hashes(folder)
    main([*OPTIONS, "-f", "0", "--method", "difflung"])
    assert "-tr nnUNetTrainerDiffLung -device cpu" in capsys.readouterr().out
    main([*OPTIONS, "-f", "0", "--method", "cbmat"])
    raw, cases = open_raw_dataset("801"), read_manifest(folder)["cases"]
    pairs = list(zip(*(sorted(i for i in cases if name in i) for name in ("_difflung_", "_cbmat_")), strict=True))
    assert pairs
    for pair in pairs:
        (image, label), (other, same) = (synthetic_arrays(raw, i, folder) for i in pair)
        host = cases[pair[0]]["host"]
        real, before_label = raw.read_image(host)[0], raw.read_label(host)[0]
        assert np.array_equal(label, same)
        assert not np.array_equal(image, other)
        assert (image == real).all(0)[(before_label != 1)].all(), "all but normal lung is real"
    assert audit_dataset(raw.name, deep=True) == []
    main([*OPTIONS, "-f", "0", "--method", "difflung"])
    assert "nothing to do" in capsys.readouterr().out
    first = {i: synthetic_arrays(raw, i, folder)[0] for i in sorted(cases) if "_cbmat_" in i}
    remove(["-d", "801"])
    assert tree_hashes(folder) == before
    main([*OPTIONS, "-f", "0", "--method", "cbmat", "--resamplings", "3"])
    again = sorted(read_manifest(folder)["cases"])
    assert len(again) == len(first)
    assert any(
        (synthetic_arrays(raw, i, folder)[0] != image).any() for i, image in zip(again, first.values(), strict=True)
    )


def test_the_default_method_from_the_dataset_to_a_training_and_back(folders, monkeypatch):
    folder = make_dataset(folders[0], patients=4, folds=2)
    before = tree_hashes(folder)
    main([*OPTIONS, "-f", "0"])
    synthetic = sorted(read_manifest(folder)["cases"])
    assert synthetic
    assert all(name.startswith("difflung_difflung_f0_") for name in synthetic)
    trainer = trained_briefly(open_raw_dataset("801"), "nnUNetTrainerDiffLung", monkeypatch)
    assert trainer.my_init_kwargs["difflung_cases"]["synthetic"] == synthetic
    notes = json.loads((Path(trainer.output_folder) / "debug.json").read_text())
    assert notes["method"] == "difflung"
    assert audit(["-d", "801"]) == 0
    remove(["-d", "801"])
    assert tree_hashes(folder) == before


def test_strength_leads_from_the_copy_to_the_generator(folders):
    folder = make_dataset(folders[0], patients=4, folds=2)
    far = {}
    for strength in ("0.02", "1"):
        main([*OPTIONS, "--steps", "20", "-f", "0", "--method", "harmonise", "--strength", strength])
        main([*OPTIONS, "-f", "0", "--method", "copy_paste"])
        raw, cases = open_raw_dataset("801"), read_manifest(folder)["cases"]
        pairs = list(zip(*(sorted(i for i in cases if name in i) for name in ("harmonise", "copy_paste")), strict=True))
        far[strength] = np.mean(
            [np.abs(np.subtract(*(synthetic_arrays(raw, i, folder)[0] for i in pair))).mean() for pair in pairs]
        )
        remove(["-d", "801"])
    assert far["0.02"] < 0.5 * far["1"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--method", "copy_paste", "--paint", "full"], "--paint composite"),
        (["--method", "harmonise", "--preset", "paper"], "--paint composite"),
        (["--method", "harmonise", "--sampler", "dpm"], "--sampler dpm"),
        (["--method", "harmonise", "--sampler", "unipc"], "--sampler unipc"),
        (["--method", "harmonise", "--strength", "0"], "--strength 0"),
        (["--strength", "0.4"], "--strength does nothing with --method difflung"),
        (["--preset", "paper", "--strength", "0.4"], "--strength does nothing with --method cbmat"),
        (["--method", "difflung", "--paint", "full"], "--paint composite"),
        (["--method", "difflung", "--preset", "paper"], "--paint composite"),
        (["--method", "difflung", "--resamplings", "2"], "leave --resamplings out"),
        (["--method", "spade", "--resamplings", "2"], "leave --resamplings out"),
        (["--method", "cbmat", "--resamplings", "2", "--paint", "full"], "--paint composite"),
        (["--method", "cbmat", "--resamplings", "2", "--sampler", "dpm"], "--sampler ddim or ddpm"),
    ],
)
def test_what_a_method_cannot_do_is_refused(folders, options, expected):
    make_dataset(folders[0])
    with pytest.raises(BadInput, match=expected):
        main(["-d", "801", "-device", "cpu", *options])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--method", "difflung"], ("host", "drawn", "faded", 2)),
        (["--method", "difflung", "--preset", "fast"], ("host", "drawn", "faded", 2)),
        (["--method", "difflung", "--margin", "5", "--edge", "painted"], ("host", "drawn", "painted", 5)),
        (["--method", "cbmat"], ("donor", "real", "painted", 3)),
        (["--method", "cbmat", "--preset", "fast"], ("donor", "real", "painted", 1)),
        (["--method", "copy_paste", "--styles", "drawn", "--edge", "faded"], ("donor", "real", "painted", 3)),
        (["--preset", "paper"], ("donor", "real", "painted", 3)),
    ],
)
def test_methods_that_tell_no_style_have_the_same_settings_as_before_there_were_styles(options, expected):
    sampling = settings_from(parse(["-d", "801", "-device", "cpu", *options])).sampling
    assert (sampling.level, sampling.styles, sampling.edge, sampling.margin) == expected


@pytest.mark.parametrize(
    ("method", "options", "idle"),
    [
        ("copy_paste", ["--steps", "3", "--epochs", "1"], ["--steps", "--epochs"]),
        ("mat", ["--ablation-probability", "eq8", "--steps", "3"], ["--ablation-probability"]),
        ("pix2pix", ["--steps", "3", "--annealing", "none"], ["--annealing", "--steps"]),
        ("cbmat", ["--steps", "3"], []),
        ("mat", ["--ablated-classes", "all"], []),
        ("difflung", ["--level", "donor"], []),
        ("cbmat", ["--level", "host"], ["--level"]),
        ("copy_paste", ["--level", "host"], ["--level"]),
        ("none", ["--ablated-classes", "all"], ["--ablated-classes"]),
    ],
)
def test_options_that_change_nothing_are_named(method, options, idle, capsys):
    plain = settings_from(parse(["-d", "801", "-device", "cpu", "--method", method]))
    settings = settings_from(parse(["-d", "801", "-device", "cpu", "--method", method, *options]))
    said = capsys.readouterr().err
    assert (settings == plain) == (len(idle) == len(options) / 2), "what changes nothing must not tell runs apart"
    assert (f"with --method {method}" in said) == bool(idle)
    assert all(option in said for option in idle)
    assert idle or "--" not in said


def test_difflung_is_sampled_with_fresh_noise_unless_told_otherwise():
    def sampler(*options):
        return settings_from(parse(["-d", "801", "-device", "cpu", *options])).sampling.sampler

    assert sampler("--method", "difflung") == sampler() == "ddpm"
    assert sampler("--method", "difflung", "--sampler", "ddim") == sampler("--method", "cbmat") == "ddim"


def test_the_preset_decides_the_method_unless_it_is_named():
    def method(*options):
        return settings_from(parse(["-d", "801", "-device", "cpu", *options])).method

    assert method() == method("--preset", "fast") == "difflung"
    assert method("--preset", "paper") == method("--method", "cbmat") == "cbmat"
    assert method("--preset", "paper", "--method", "mat") == "mat"


def test_who_has_begun_with_the_earlier_default_is_told_how_to_go_on(folders, capsys):
    make_dataset(folders[0])
    (folders[2] / "Dataset801_Tiny" / "DiffLung__cbmat" / "fold_0").mkdir(parents=True)
    run = ["-d", "801", "-f", "0", "-device", "cpu", "--dry-run"]
    for options, told in (([], True), (["--method", "cbmat"], False), (["--method", "difflung"], False)):
        main([*run, *options])
        said = capsys.readouterr().err
        assert ("Note: Dataset801_Tiny has work of --method cbmat" in said) == told
        assert ("to resume or extend it, add --method cbmat" in said) == told
    (folders[2] / "Dataset801_Tiny" / "DiffLung__difflung").mkdir()
    main(run)
    assert "has work of --method" not in capsys.readouterr().err


def test_every_method_has_a_generator_that_is_a_method():
    assert all(
        m.generator in ("", *METHODS) and METHODS[m.generator or name].generator == m.generator
        for name, m in METHODS.items()
    )


def test_what_was_painted_for_other_folds_is_not_injected(folders, monkeypatch):
    """Interrupted before the injection, folds changed: a painted validation patient would come in unseen."""
    import nnunet_difflung.pipeline.augment as module

    folder = make_dataset(folders[0])
    options = [*OPTIONS, "--method", "copy_paste", "-f", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "inject", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            main(options)
    fold = folders[2] / "Dataset801_Tiny" / "DiffLung__copy_paste" / "fold_0"
    painted = list(fold.glob("synthesis_*"))
    assert len(painted) == 1
    assert list(painted[0].rglob("*.nii.gz"))
    splits = json.loads((folder / "splits_final.json").read_text())
    ids = sorted(splits[0]["train"] + splits[0]["val"])
    held = [i for i in ids if i[5:8] in ("002", "003", "004")]
    assert set(held) & set(splits[0]["train"])
    (folder / "splits_final.json").write_text(json.dumps([{"train": sorted(set(ids) - set(held)), "val": held}]))
    main(options)
    raw, manifest = open_raw_dataset("801"), read_manifest(folder)
    for identifier, record in manifest["cases"].items():
        image, label = synthetic_arrays(raw, identifier, folder)
        host, known = raw.read_image(record["host"])[0], raw.read_label(record["host"])[0]
        same = known != 1  # only normal lung is ever painted
        assert record["host"] not in held
        assert (image[:, same] == host[:, same]).all()
        assert (label[same] == known[same]).all()
    assert not painted[0].exists()
