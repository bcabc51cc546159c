"""Synthetic volumes that are written as the box around what was painted."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_difflung.commands.augment import entry, main, parse, settings_from
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.config import BOX
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.lesions.plan import PlannedCase
from nnunet_difflung.painting.box import box_from, box_of_case, box_record
from nnunet_difflung.pipeline.preflight import without_idle_options
from nnunet_difflung.preparing.application import AppliedCase
from tests.support.commands import prepared, synthetic_arrays
from tests.support.tiny import make_dataset, tree_hashes

RUN = ["-d", "801", "-f", "0", "--method", "copy_paste", "--gate", "report", "-device", "cpu", "--placebo", "0.3"]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    return prepared(tmp_path, monkeypatch)


def made(folders, *options: str, **dataset):
    folder = make_dataset(folders[0], patients=6, **({"volumes": True, "depth": 12, "size": 48} | dataset))
    before = tree_hashes(folder)
    main([*RUN, *options])
    return folder, before


def test_a_box_holds_all_that_was_painted_and_its_surroundings(folders):
    folder, before = made(folders)
    cases = read_manifest(folder)["cases"]
    whole = {key: synthetic_arrays(open_raw_dataset("801"), key, folder) for key in cases}
    remove(["-d", "801"])
    main([*RUN, "--box", "6"])
    boxed, raw = read_manifest(folder)["cases"], open_raw_dataset("801")
    assert len(boxed) == len(cases) >= 2
    smaller = 0
    for (key, record), (old, of_whole) in zip(sorted(boxed.items()), sorted(cases.items()), strict=True):
        image, label = synthetic_arrays(raw, key, folder)
        full_image, full_label = whole[old]
        box = tuple(slice(*ends) for ends in record["box"])
        assert np.array_equal(image, full_image[(slice(None), *box)])
        assert np.array_equal(label, full_label[box])
        assert record["operations"] == of_whole["operations"], "places are those in the host"
        host, properties = raw.read_image(record["host"])
        differs = (full_image != host).any(0)
        z, y, x = (np.flatnonzero(differs.any(axes)) for axes in ((1, 2), (0, 2), (0, 1)))
        for at, part, spacing, length in zip((z, y, x), box, properties["spacing"], host.shape[1:], strict=True):
            assert part.start <= max(0, at[0] - int(6 / spacing))
            assert part.stop >= min(length, at[-1] + 1 + int(6 / spacing))
        painted = {int(n) for n in np.flatnonzero((image != host[(slice(None), *box)]).any((0, 2, 3)))}
        assert painted <= set(record["slices"]), "counted in the file, for the trainers' dose"
        assert max(record["slices"]) < len(label)
        smaller += image.size < host.size
    assert smaller
    remove(["-d", "801"])
    assert tree_hashes(folder) == before


@pytest.mark.parametrize("channels", [1, 2])
def test_slices_are_written_whole(folders, channels):
    """The second channel is normalised case by case, which does not matter for whole slices."""
    folder, _ = made(folders, "--box", volumes=False, channels=channels)
    assert not any("box" in record for record in read_manifest(folder)["cases"].values())
    assert settings_from(parse([*RUN, "--box"])).sampling.box == BOX


def test_a_box_is_another_setting_and_none_is_what_earlier_versions_did():
    usual, box = (settings_from(parse([*RUN, *more])) for more in ([], ["--box", "20"]))
    assert usual.identity() != box.identity()
    record = usual.as_dict()
    del record["sampling"]["box"]
    from nnunet_difflung.config import identity

    assert identity(record) == usual.identity()


def test_channels_that_are_normalised_case_by_case_are_refused(folders, capsys):
    make_dataset(folders[0], patients=4, volumes=True, channel_names={"0": "lung_window_8bit"})
    with pytest.raises(SystemExit) as stop:
        entry([*RUN, "--box", "10"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "--box: nnU-Net normalises the channel 'lung_window_8bit' of Dataset801_Tiny by ZScoreNormalization" in said


@pytest.mark.parametrize("value", ["0", "-3", "nan", "inf"])
def test_impossible_boxes_are_refused(folders, capsys, value):
    make_dataset(folders[0], patients=4, volumes=True)
    with pytest.raises(SystemExit) as stop:
        entry([*RUN, "--box", value])
    assert stop.value.code == 2
    assert "--box" in capsys.readouterr().err


def test_the_box_is_that_of_what_is_painted_and_no_larger():
    region = np.zeros((3, 40, 50), bool)
    region[1:, 10:15, 20:21] = True
    planned = PlannedCase(0, "host", (), (4, 6, 7), 0)
    applied = AppliedCase(planned, (30, 40, 50), (2.0, 1.0, 0.5), *[np.zeros(0)] * 4, region)
    assert box_of_case(applied, 3) == (slice(4, 10), slice(7, 18), slice(14, 27))
    assert box_of_case(applied, 100) == (slice(0, 30), slice(0, 40), slice(0, 50))
    assert box_of_case(applied, None) is None
    assert box_record(box_of_case(applied, 3)) == {"box": [[4, 10], [7, 18], [14, 27]]}
    assert box_from({"box": [[4, 10], [7, 18], [14, 27]]}) == box_of_case(applied, 3)
    single = AppliedCase(
        PlannedCase(0, "host", (), (0,), 0), (1, 40, 50), (999.0, 1, 1), *[np.zeros(0)] * 4, region[1:2]
    )
    assert box_of_case(single, 3) is None


def test_options_for_volumes_have_no_effect_on_slices_and_a_note_says_so(folders, capsys):
    folder, _ = made(folders, "--box", "6", volumes=False)
    assert "Note: Dataset801_Tiny holds single slices, so --box has no effect." in capsys.readouterr().err
    assert read_manifest(folder)["runs"][0]["settings"]["sampling"]["box"] is None
    main(RUN)
    assert "already holds these synthetic cases" in capsys.readouterr().out
    raw, given = open_raw_dataset("801"), settings_from(parse(["-d", "801", "--neighbours", "0", "--box"]))
    assert without_idle_options(raw, given, True) == settings_from(parse(["-d", "801"]))
    assert "so --box and --neighbours have no effect." in capsys.readouterr().err


def test_volumes_keep_their_options(folders):
    make_dataset(folders[0], patients=3, volumes=True, depth=8, size=48)
    given = settings_from(parse(["-d", "801", "--neighbours", "0", "--box"]))
    assert without_idle_options(open_raw_dataset("801"), given, True) == given
