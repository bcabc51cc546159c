"""The window of a channel that is not CT holds the rare class, however dark or bright it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnunet_difflung.config import CT_WINDOW, preset
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.generator.encoding import cut_off, denormalise, intensity_windows, normalise
from nnunet_difflung.pipeline.preflight import warn_of_windows
from tests.support.tiny import make_dataset


class Cases:
    """A cache of one slice of grey values: normal lung, body, and a pathology."""

    def __init__(self, of_class: np.ndarray, rest: np.ndarray, roles):
        self.roles = roles
        values = np.concatenate([of_class, rest])
        self._image = values.reshape(1, 1, 1, -1)
        classes = [np.full(len(of_class), roles.values["emphysema"]), np.full(len(rest), roles.values["normal_lung"])]
        self._condition = np.concatenate(classes).reshape(1, 1, -1)
        self.facts = {"a": self}

    def image(self, _: str) -> np.ndarray:
        return self._image

    def condition(self, _: str) -> np.ndarray:
        return self._condition

    def voxels(self, name: str) -> int:
        return int((self._condition == self.roles.values[name]).sum())


@pytest.fixture
def roles(folders):
    make_dataset(folders[0])
    return open_raw_dataset("801").roles


def grey(mean: float, spread: float, number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(mean, spread, number).astype(np.float32)


@pytest.mark.parametrize("share", [0.001, 0.003, 0.01])
@pytest.mark.parametrize("mean", [25, 255])
def test_a_rare_class_at_the_end_of_the_grey_values_is_not_painted_in_one_value(roles, share, mean):
    of_class = grey(mean, 8, round(100_000 * share))
    cases = Cases(of_class, grey(140, 30, 100_000), roles)
    (window,) = intensity_windows(cases, ["a"], ["MR"])
    painted = denormalise(normalise(of_class[None], [window]), [window])[0]
    assert abs(painted.mean() - of_class.mean()) < 1
    assert painted.std() > 0.9 * of_class.std()
    assert cut_off(cases, ["a"], [window]) == {}


def test_a_class_among_the_others_does_not_change_the_window(roles):
    rest = grey(140, 30, 100_000)
    (window,) = intensity_windows(Cases(grey(150, 30, 300), rest, roles), ["a"], ["MR"])
    without = np.percentile(np.concatenate([grey(150, 30, 300), rest])[::7], (0.5, 99.5))
    assert window == pytest.approx(tuple(without))


def test_hu_and_a_window_that_was_given_stay(roles):
    cases = Cases(grey(-1500, 8, 300), grey(-800, 30, 100_000), roles)
    assert intensity_windows(cases, ["a"], ["CT"]) == (CT_WINDOW,)
    assert intensity_windows(cases, ["a"], ["MR"], [(-900, -700)]) == ((-900, -700),)


def test_a_given_window_that_cuts_a_class_off_is_said(folders, capsys):
    make_dataset(folders[0])
    raw = open_raw_dataset("801")
    cache = build_cache(raw, folders[2] / "cache", progress=False)
    settings = preset("fast")
    warn_of_windows(raw, cache, settings)
    assert capsys.readouterr().err == ""
    given = replace(settings, generator=replace(settings.generator, windows=((-900.0, 200.0),)))
    warn_of_windows(raw, cache, given)
    (line,) = capsys.readouterr().err.splitlines()
    assert "--window -900,200 cuts off" in line
    assert "of the voxels of emphysema in Dataset801_Tiny, channel CT" in line
