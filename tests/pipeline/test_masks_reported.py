"""What is said about the masks: how like real ones they are, and classes on the border of the lung."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nnunet_difflung.commands.augment import main, parse, settings_from
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.telling.likeness import describe_likeness
from tests.support.lungs import relabel
from tests.support.tiny import LABELS, make_dataset

pytestmark = pytest.mark.usefixtures("fingerprint")
COPY = ["-d", "801", "--method", "copy_paste", "--gate", "report", "-device", "cpu", "-f", "0", "--max-synthetic", "12"]
EFFUSION = 4


def with_effusion(folder):
    """A layer at the back of both lungs."""

    def change(label: np.ndarray) -> np.ndarray:
        new = label.copy()
        for plane in new:
            for x in range(plane.shape[1]):
                lung = np.flatnonzero(plane[:, x])
                plane[lung[-2:], x] = EFFUSION
        return new

    return relabel(folder, {**LABELS, "effusion": EFFUSION}, change)


def test_terminal_and_report_have_the_same_figures(folders, capsys):
    folder = make_dataset(folders[0], patients=8, folds=2)
    main([*COPY, "--placement", "uniform", "--target-multiple", "0", "--target-share", "emphysema=0.3", "ILD=0.3"])
    said = capsys.readouterr().out
    report = folders[2] / folder.name / "DiffLung__copy_paste" / "augment_report.json"
    (fold,) = json.loads(report.read_text())["folds"]
    assert set(fold["likeness"]) == {"emphysema", "ILD"}
    for line in describe_likeness(fold["likeness"]):
        assert line in said
    assert "likeness" not in json.dumps(read_manifest(folder)), "what earlier versions wrote stays as it was"


def test_a_class_on_the_border_is_left_out_with_a_warning_before_anything_is_made(folders, capsys):
    with_effusion(make_dataset(folders[0], patients=4, folds=2))
    main([*COPY, "--dry-run"])
    captured = capsys.readouterr()
    assert "of the outline of 'effusion' is pleura" in captured.err
    assert "it will not be painted; --target-share effusion=SHARE does so all the same" in captured.err
    main([*COPY, "--dry-run", "--placement", "uniform"])
    assert "--target-share effusion=0 leaves it out" in capsys.readouterr().err
    main([*COPY, "--dry-run", "--structure-label", "effusion"])
    assert "is pleura" not in capsys.readouterr().err


def test_a_class_that_was_left_out_cannot_become_normal_lung_later(folders):
    with_effusion(make_dataset(folders[0], patients=4, folds=2))
    main(COPY)
    with pytest.raises(BadInput, match="'effusion' was a pathology and is normal lung now"):
        main([*COPY, "--normal-label", "normal_lung", "effusion"])


def test_a_fold_whose_only_class_is_left_out_has_not_met_its_target(folders, capsys):
    with_effusion(make_dataset(folders[0], patients=4, folds=2))
    main([*COPY, "--structure-label", "emphysema", "ILD"])
    said = capsys.readouterr().out
    assert "nothing to add, no pathology is to be painted (see its notes and the warnings)" in said
    assert "target share" not in said


def test_options_of_places_and_targets_become_settings():
    usual = settings_from(parse(["-d", "801", "--precision", "fp32"])).balance
    assert (usual.placement, usual.target_multiple, usual.hosts) == ("real", 4.0, "alike")
    typed = ["-d", "801", "--precision", "fp32", "--placement", "uniform", "--hosts", "any", "--target-multiple"]
    assert settings_from(parse([*typed, "2.5"])).balance.target_multiple == 2.5
    earlier = settings_from(parse([*typed, "0"])).balance
    assert (earlier.placement, earlier.target_multiple, earlier.hosts) == ("uniform", None, "any")


@pytest.mark.parametrize("value", ["0.5", "-1", "inf", "nan", "much"])
def test_a_multiple_below_one_is_refused(value, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["-d", "801", f"--target-multiple={value}"])
    assert stopped.value.code == 2
    assert "--target-multiple" in capsys.readouterr().err
