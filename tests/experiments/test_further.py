"""Options that a script hands on in one string override none that it gives itself."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from benchmarks import peer, whole
from experiments import main_chain, regions, run_arms, volumes
from experiments.bench import __main__ as bench
from experiments.further import of_augment, of_converter
from nnunet_difflung.errors import BadInput


@pytest.mark.parametrize("text", ["--method cbmat", "--epochs 3 --method=cbmat", "--meth cbmat", "-f0", "-device cpu"])
def test_an_option_of_the_script_is_refused_however_it_is_spelt(text):
    with pytest.raises(BadInput, match=r"^--augment '.*' holds (--method|-f|-device) of difflung_augment, which"):
        of_augment("--augment", text, "--method", "-f", "-device")
    assert of_augment("--augment", text)


def test_other_options_are_handed_on_and_unknown_ones_are_refused():
    text = "--preset fast --target-share emphysema=0.06 ILD=0.2 --window=-1000,1000 --exclude 'a folder/x.csv'"
    words = of_augment("--augment", text, "-d", "--method")
    assert words == [*text.split()[:6], "--exclude", "a folder/x.csv"]
    with pytest.raises(BadInput, match="difflung_augment says unrecognized arguments: --epoch-number 3"):
        of_augment("--augment", "--epoch-number 3", "-d")


@pytest.mark.parametrize(
    ("dataset", "text", "named"),
    [
        ("Dataset801_MedSegCOVID19", "-i FOLDER --dataset-id 5", "--dataset-id"),
        ("Dataset807_LIDCNodules", "-i FOLDER --apart 0 --as volumes", "--as"),
        ("Dataset800_ChestPhantom", "--volumes --name X", "--name"),
    ],
)
def test_converters_keep_the_id_and_name_of_the_set(dataset, text, named):
    with pytest.raises(BadInput, match=f"holds {named} of the converter"):
        of_converter("--convert", text, dataset, "--as")
    allowed = ["-i", "FOLDER", "--test-patients", "8"]
    assert of_converter("--convert", allowed, "Dataset801_MedSegCOVID19", "--as") == allowed


def refused(words: list[str], main, monkeypatch, capsys) -> str:
    """The last line that a command prints which refuses its command line."""
    monkeypatch.setattr(sys, "argv", ["script", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--augment", "--method cbmat --epochs 3", "--method"),
        ("--augment", "--preset fast --seed 3", "--seed"),
        ("--evaluate", "--arms mat", "--methods"),
        ("--convert", "--name Other", "--name"),
    ],
)
def test_run_arms_refuses_before_it_makes_anything(option, value, named, tmp_path, monkeypatch, capsys):
    words = ["--set", "phantom", "-o", str(tmp_path / "WORK"), f"{option}={value}"]
    said = refused(words, run_arms.main, monkeypatch, capsys)
    assert f"{option} '{value}' holds {named} of" in said
    assert not (tmp_path / "WORK").exists()


def test_other_scripts_refuse_too(tmp_path, monkeypatch, capsys):
    dataset, output = ["-d", "801"], ["-o", str(tmp_path / "x.json")]
    lesions = [*dataset, "--class", "x", *output]
    for main, words, named in (
        (main_chain.main, [*dataset, "-f", "0", *output, "--", "--method", "difflung"], "--method"),
        (whole.main, ["--augment", "--gate", "off"], "--gate"),
        (peer.main, [*lesions, "--augment=--epochs 3"], "--epochs"),
    ):
        assert f"holds {named} of difflung_augment" in refused(words, main, monkeypatch, capsys)
    for main, words, named in (
        (regions.main, [*lesions, "--augment=--method mat"], "--method"),
        (regions.main, [*lesions, "--also=wide=cbmat --margin 4 --seed 3"], "--seed"),
        (volumes.main, [*lesions, "--augment=--preset paper"], "--preset"),
    ):
        assert main(words) == 2
        assert f"holds {named} of difflung_augment" in capsys.readouterr().err
    for words, named in ((["--augment=-np 8"], "-np"), (["--convert=-i X --as slices"], "--as")):
        assert bench.main(["run", "--set", "lidc_volumes", "-o", str(tmp_path / "WORK"), "--dry-run", *words]) == 2
        assert f"holds {named} of" in capsys.readouterr().err
    assert not (tmp_path / "WORK").exists()


def test_every_set_of_the_bench_and_the_defaults_of_run_arms_are_allowed():
    for name in bench.SETS:
        o = bench.parser().parse_args(["run", "--set", name, "-o", "WORK", "--convert=-i FOLDER"])
        if "phantom" in name:
            o.convert = "--seed 3"
        assert bench.further(o)[1] == bench.SETS[name].augment.split()


def test_regions_of_an_arm_are_painted_with_its_preset():
    assert run_arms._preset_of(["--epochs", "3"]) == ("default", ["--epochs", "3"])
    assert run_arms._preset_of(["--preset=paper", "--box"]) == ("paper", ["--box"])
    o = SimpleNamespace(methods=["difflung"], augment="--epochs 3", also=["own=cbmat --preset default"])
    assert regions.painters_of(o)["own"] == ("cbmat", "--epochs 3 --preset default")
