"""The commands' options: none is lost, shared ones are the same everywhere, and -h explains each."""

from __future__ import annotations

import argparse
import importlib

import pytest

import nnunet_difflung
from nnunet_difflung.commands import augment

OPTIONS = {
    "augment": "-d -f -c -device -num_gpus -np --dry-run --preset --seed --save-every --method --ablation-probability "
    "--ablated-classes --annealing --epochs --batch-size --patch-size --balanced-share --prediction --precision "
    "--neighbours --window --paint --margin --box --exclude --sampler --steps --resamplings --strength --gate "
    "--memorised --candidates --selection --level --styles --edge --target-share --target-multiple --balance-order "
    "--placement --hosts --max-synthetic --placebo --normal-label --structure-label --patient-pattern --patients",
    "evaluate": "-d -f --methods --arms -device -np -o --samples --max-slices --seed --preset --sampler --steps "
    "--precision --normal-label --structure-label --patient-pattern --patients",
    "compare": "-d -f -c -p --arms --methods --reference --length --results --predictions --patient-pattern --patients "
    "--lesions --surface --tolerance -o",
    "export": "-d -f -o --overwrite --dry-run -tr -c -p --length -chk --patient-pattern --patients",
    "audit": "-d --fast --deep --images -np",
    "report": "-d --method -c -device -o --anonymous --normal-label --structure-label --patient-pattern --patients",
    "turing": "-d --score -o --method --number --seed --normal-label --structure-label --patient-pattern --patients",
    "remove": "-d -f --method --dry-run --force --generators",
    "demo": "-o --length --epochs --size --overwrite",
}
OUTPUT = ["--json", "--quiet", "--version"]  # of every command
SHARED = [option for option in OPTIONS["evaluate"].split() if option in OPTIONS["augment"].split()]


def parser(name: str) -> argparse.ArgumentParser:
    return importlib.import_module(f"nnunet_difflung.commands.{name}").parser()


def actions(name: str) -> dict[str, argparse.Action]:
    return {
        option: action
        for action in parser(name)._actions
        for option in action.option_strings
        if option not in ("-h", "--help")
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_the_names_of_all_options(name):
    assert sorted(actions(name)) == sorted([*OPTIONS[name].split(), *OUTPUT])


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_explained_with_its_default(name):
    for option, action in actions(name).items():
        assert action.help, option
        if action.nargs == 0:  # a flag, off by default
            continue
        assert action.required or "(default: " in action.help or "; preset" in action.help, option
        assert action.choices or action.metavar, f"{option} shows no example of its value"


@pytest.mark.parametrize("option", SHARED)
def test_shared_options_are_the_same_in_both_commands(option):
    augment, evaluate = actions("augment")[option], actions("evaluate")[option]
    same = {"dest", "type", "default", "choices", "metavar", "nargs"} - ({"default"} if option == "--preset" else set())
    for key in same:  # a preset that is not given is that of the generators, which are there already
        assert getattr(augment, key) == getattr(evaluate, key), key


@pytest.mark.parametrize("name", ["evaluate", "compare"])
def test_all_files_beside_the_results_file_are_named(name):
    assert "FILE.md, FILE.html and FILE.png are written beside it" in actions(name)["-o"].help


@pytest.mark.parametrize("name", ["augment", "evaluate", "audit"])
def test_a_number_of_threads_is_positive(name, capsys):
    with pytest.raises(SystemExit) as ended:
        parser(name).parse_args(["-d", "801", "-np", "0"])
    assert ended.value.code == 2
    assert "-np" in capsys.readouterr().err


@pytest.mark.parametrize("name", OPTIONS)
def test_help_lists_exit_code_3_where_a_command_has_it(name):
    codes = parser(name).format_help().split("exit codes: ")[1]
    assert ("3 patients to look at" in codes) == (name == "audit")


def test_defaults_that_a_preset_changes_are_shown():
    text = " ".join(parser("augment").format_help().split())
    assert "(default: 25; preset paper: 1000)" in text
    assert "(default: 200; preset fast: 120; preset paper: 400)" in text


def test_help_fits_the_terminal(monkeypatch):
    for columns in (80, 100, 300):
        monkeypatch.setenv("COLUMNS", str(columns))
        for name in OPTIONS:
            text = parser(name).format_help().split("example:")[0]
            assert max(map(len, text.splitlines())) <= min(columns, 112), (name, columns)


@pytest.mark.parametrize("words", [["-1"], [str(2**63)], ["99999999999999999999999"]])
def test_a_seed_that_torch_cannot_take_is_refused(capsys, words):
    with pytest.raises(SystemExit):
        augment.parse(["-d", "801", "--seed", *words])
    assert "argument --seed" in capsys.readouterr().err
    assert augment.parse(["-d", "801", "--seed", str(2**63 - 1)]).seed == 2**63 - 1


@pytest.mark.parametrize("name", OPTIONS)
def test_every_command_tells_its_version(name, capsys):
    with pytest.raises(SystemExit) as stop:
        parser(name).parse_args(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"difflung_{name} (nnunet_difflung {nnunet_difflung.__version__})\n"


@pytest.mark.parametrize("name", ["augment", "report"])
def test_the_cascade_is_refused_with_the_reason(name, capsys):
    with pytest.raises(SystemExit) as ended:
        parser(name).parse_args(["-d", "801", "-c", "3d_cascade_fullres"])
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "3d_cascade_fullres needs a segmentation of each training case by 3d_lowres" in said
    assert "nnUNetTrainerDiffLungReference" in said
