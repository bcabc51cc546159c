"""Table 1 of datasets with several channels: which one is compared, its unit, and its figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_difflung.commands.evaluate import main
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.evaluation.compared_channel import compared_channel
from nnunet_difflung.generator.training import FoldData, train_generator
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import cache_folder, results_folder, table1_file
from tests.support.generators import TINY
from tests.support.tiny import make_dataset

QUICK = ["-d", "801", "-f", "0", "--preset", "fast", "--steps", "2", "--samples", "1", "-device", "cpu"]


def dataset(folder: Path, names: list[str], make):
    """A dataset whose channels are ``make(hu, label)``, and its cache."""
    made = make_dataset(folder, channels=len(names), dtype="float32", size=(30, 34), patients=4, slices=1)
    content = json.loads((made / "dataset.json").read_text())
    content["channel_names"] = {str(number): name for number, name in enumerate(names)}
    (made / "dataset.json").write_text(json.dumps(content))
    for path in sorted((made / "imagesTr").glob("*_0000.nii.gz")):
        image = sitk.ReadImage(str(path))
        hu = sitk.GetArrayFromImage(image)
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(made / "labelsTr" / path.name.replace("_0000", ""))))
        for number, channel in enumerate(make(hu, label)):
            changed = sitk.GetImageFromArray(channel.astype(np.float32))
            changed.CopyInformation(image)
            sitk.WriteImage(changed, str(path).replace("_0000", f"_{number:04d}"))
    raw = open_raw_dataset("801")
    return raw, build_cache(raw, cache_folder(raw.name), progress=False)


@pytest.mark.parametrize(
    ("names", "make", "number", "said"),
    [
        (["CT"], lambda hu, label: [hu], 0, None),
        (["R", "G"], lambda hu, label: [hu, hu], 0, "channel 1 (G): a copy of another channel"),
        (["mask", "CT"], lambda hu, label: [label > 0, hu], 1, "channel 0 (mask): a mask, set by the label"),
        (["alpha", "CT"], lambda hu, label: [255 + 0 * hu, hu], 1, "channel 0 (alpha): constant, not painted"),
        (["window", "CT"], lambda hu, label: [hu.clip(-900, -800), hu], 1, "channel 0 (window): follows from"),
        (["CT", "PET"], lambda hu, label: [hu, np.random.default_rng(0).random(hu.shape)], 0, "(PET): a further image"),
    ],
)
def test_the_first_channel_that_a_network_decides_is_compared(raw_folder, names, make, number, said):
    raw, cache = dataset(raw_folder, names, make)
    seen = compared_channel(raw, cache, [0, 1])
    assert seen.number == number
    case = sorted(raw.cases)[0]
    assert np.array_equal(seen.image(case), cache.image(case)[number : number + 1])
    assert bool(seen.left_out) == (said is not None)
    assert (said or "") in " ".join(seen.left_out)


def test_the_table_is_of_that_channel_and_in_its_unit(raw_folder, capsys):
    raw, cache = dataset(raw_folder, ["lung mask", "noNorm"], lambda hu, label: [label > 0, (hu + 1024) / 2500])
    data = FoldData(cache, tuple(raw.channels), raw.name, 0, tuple(raw.training_cases(0)))
    train_generator(
        data, METHODS["cbmat"], replace(TINY, epochs=1), results_folder(raw.name, "cbmat") / "fold_0", progress=False
    )
    main(QUICK)
    said = capsys.readouterr().out
    table = json.loads(table1_file(raw.name).read_text())
    meta = table["meta"]
    assert (meta["unit"], meta["channel"]) == ("grey levels", "noNorm")
    low, high = meta["windows"]["0"]
    assert 0 <= low < high < 0.6, "PSNR refers to the window of the compared channel, not to that of the mask"
    assert (
        "All figures are of channel 1 (noNorm). Left out are channel 0 (lung mask): a mask, set by the label." in said
    )
    assert said.count("All figures are of channel 1") == 2, "on the terminal and in the table"
    mean = table["class_mean"]
    assert 0 < mean["mae_lung"]["mean"] < 0.1
    assert f"{mean['mae_lung']['mean']:.6f}"[:5] in said, "figures of small numbers have more digits"
