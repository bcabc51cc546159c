"""Generators are evaluated with the sampler of the preset that they were trained with."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from nnunet_difflung.commands.evaluate import request_from
from nnunet_difflung.config import PRESETS, preset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.evaluation.preset_of import preset_of
from nnunet_difflung.generator.card import CARD, CARD_FORMAT
from nnunet_difflung.paths import fold_folder
from nnunet_difflung.runtime.files import write_json
from tests.support.tiny import make_dataset


def _trained(folder: Path, name: str, **changes) -> Path:
    folder.mkdir(parents=True)
    config = asdict(replace(preset(name).generator, **changes))
    write_json(folder / CARD, {"format": CARD_FORMAT, "config": config})
    return folder


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    "changes", [{}, {"epochs": 3, "learning_rate": 1e-3, "patch_size": 32}], ids=["as it is", "quick"]
)
def test_the_preset_is_found_though_some_options_were_given(tmp_path, name, changes):
    assert preset_of([tmp_path / "none", _trained(tmp_path / "fold_0", name, **changes)]) == name


def test_without_a_generator_it_is_the_default(tmp_path):
    assert preset_of([tmp_path]) == "default"


def test_generators_of_presets_that_sample_differently_are_refused(tmp_path):
    fast, usual, paper = (_trained(tmp_path / name, name) for name in ("fast", "default", "paper"))
    assert preset_of([fast, usual]) in ("fast", "default")
    with pytest.raises(BadInput, match="/fast with fast; .*/paper with paper.*give --preset"):
        preset_of([fast, paper])


def test_the_command_reads_the_generators_that_it_compares(folders):
    make_dataset(folders[0])
    _trained(fold_folder("Dataset801_Tiny", "cbmat", 0), "paper")
    _trained(fold_folder("Dataset801_Tiny", "cbmat", 1), "fast")
    words = ["-d", "801", "-device", "cpu", "--methods", "cbmat", "-f"]
    assert request_from([*words, "0"], "").sampling.steps == 1000
    assert request_from([*words, "1"], "").sampling.steps == 25
    assert request_from([*words, "0", "--preset", "fast"], "").preset == "fast"
