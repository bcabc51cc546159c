"""Masks given as arrays are painted into images given as arrays, and nothing else changes."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

import nnunet_difflung as dl
from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.generator.card import read_card
from nnunet_difflung.pipeline import fold as fold_module
from nnunet_difflung.runtime.files import write_json
from tests.support.tiny import LABELS, make_dataset, make_image, make_masks, set_paths

TINY = {"preset": "fast", "epochs": 1, "batch_size": 4, "patch_size": 16, "device": "cpu"}
PIXEL = (0.8, 0.8)
STEPS = 2


@dataclass(frozen=True)
class Scene:
    """A slice that the generators have not seen, and a disc of emphysema in its normal lung; all (y, x)."""

    image: np.ndarray
    labels: np.ndarray
    new_labels: np.ndarray

    @property
    def changed(self) -> np.ndarray:
        return self.labels != self.new_labels

    def near(self, margin: int) -> np.ndarray:
        """The disc and so many pixels of normal lung around it."""
        around = ndimage.binary_dilation(self.changed, iterations=margin) if margin else self.changed
        return self.changed | (around & (self.labels == LABELS["normal_lung"]))


def scene(seed: int = 9, size: int = 32) -> Scene:
    rng = np.random.default_rng(seed)
    body, label = make_masks(rng, 1, (size, size), emphysema=False)
    image = np.rint(make_image(rng, body, label)[0, 0]).astype(np.int16)
    label = label[0]
    normal = label == LABELS["normal_lung"]
    y, x = np.unravel_index(np.argmax(ndimage.distance_transform_edt(normal)), label.shape)
    rows, columns = np.ogrid[:size, :size]
    new = label.copy()
    new[((rows - y) ** 2 + (columns - x) ** 2 <= 6) & normal] = LABELS["emphysema"]
    return Scene(image, label, new)


@pytest.fixture(scope="module")
def generators(tmp_path_factory):
    """Generators of slices: ``difflung`` and ``cbmat``; and one of volumes."""
    with pytest.MonkeyPatch.context() as patch:
        raw, _, _ = set_paths(tmp_path_factory.mktemp("nnunet"), patch)
        make_dataset(raw)
        make_dataset(raw, 802, "Volumes", volumes=True, depth=5, patients=4)
        yield {
            "difflung": dl.train_generator(801, 0, **TINY),
            "cbmat": dl.train_generator(801, 0, method="cbmat", **TINY),
            "volumes": dl.train_generator("802", 0, **TINY),
        }


@pytest.mark.parametrize("name", ["difflung", "cbmat", "volumes"])
@pytest.mark.parametrize("margin", [0, 2])
def test_only_the_new_lesion_and_its_margin_change(generators, name, margin):
    s = scene()
    painted = generators[name].paint(s.image, s.labels, s.new_labels, spacing=PIXEL, steps=STEPS, margin=margin)
    assert (painted.shape, painted.dtype) == (s.image.shape, s.image.dtype)
    np.testing.assert_array_equal(painted[~s.near(margin)], s.image[~s.near(margin)])
    assert (painted[s.changed] != s.image[s.changed]).mean() > 0.8
    assert (painted[s.near(margin)] != s.image[s.near(margin)]).mean() > 0.8


def test_the_seed_decides_what_is_painted(generators):
    s = scene()
    first, again, other = (
        generators["difflung"].paint(s.image, s.labels, s.new_labels, spacing=PIXEL, steps=STEPS, seed=seed)
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other)[s.changed].any()


def test_a_loaded_generator_paints_what_the_trained_one_did(generators):
    s = scene()
    trained = generators["difflung"]
    expected = trained.paint(s.image, s.labels, s.new_labels, spacing=PIXEL, steps=STEPS)
    for loaded in (
        dl.load_generator(801, 0, device="cpu"),
        dl.load_generator(dl.load_dataset("Dataset801_Tiny"), 0, "difflung", device="cpu"),
        dl.load_generator(trained.folder, device="cpu"),
    ):
        assert loaded.training_cases == trained.training_cases == dl.load_dataset(801).training_cases(0)
        painted = loaded.paint(s.image, s.labels, s.new_labels, spacing=PIXEL, steps=STEPS)
        np.testing.assert_array_equal(painted, expected)


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64"])
def test_intensities_come_back_in_their_own_type(generators, dtype):
    """Values that float32 cannot hold exactly stay as they are, too, where nothing is painted."""
    s = scene()
    image = s.image.astype(dtype)
    if dtype == "float64":
        image += 1e-9
    before = image.copy()
    painted = generators["difflung"].paint(image, s.labels, s.new_labels, spacing=PIXEL, steps=STEPS)
    assert painted.dtype == image.dtype
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(painted[~s.near(3)], image[~s.near(3)])
    as_floats = generators["difflung"].paint(
        s.image.astype(np.float32), s.labels, s.new_labels, spacing=PIXEL, steps=STEPS
    )
    assert np.abs(painted[s.changed].astype(float) - as_floats[s.changed]).max() <= 0.5 + 1e-3
    assert -1000 <= as_floats[s.changed].min() <= as_floats[s.changed].max() <= 1000


def test_the_margin_fades_into_the_image(generators, monkeypatch):
    s = scene()
    faded = generators["difflung"].paint(s.image, s.labels, s.new_labels, spacing=PIXEL, steps=STEPS)
    monkeypatch.setattr("nnunet_difflung.painting.drawn_mask.weights", lambda *_: None)
    painted = generators["difflung"].paint(s.image, s.labels, s.new_labels, spacing=PIXEL, steps=STEPS)
    np.testing.assert_array_equal(faded[s.changed], painted[s.changed])
    margin = s.near(2) & ~s.changed
    off, as_painted = (np.abs(image.astype(float) - s.image)[margin].mean() for image in (faded, painted))
    assert off < 0.9 * as_painted


def test_a_slice_is_a_volume_of_one_slice(generators):
    s = scene()
    flat = generators["difflung"].paint(s.image, s.labels, s.new_labels, spacing=PIXEL, steps=STEPS)
    for image, axes in ((s.image[None], 3), (s.image[None, None], 3), (s.image[None], 2)):
        labels = (s.labels, s.new_labels) if axes == 2 else (s.labels[None], s.new_labels[None])
        spacing = PIXEL if axes == 2 else (999.0, *PIXEL)
        painted = generators["difflung"].paint(image, *labels, spacing=spacing, steps=STEPS)
        assert painted.shape == image.shape
        np.testing.assert_array_equal(painted.reshape(flat.shape), flat)


@pytest.mark.parametrize(("name", "reach"), [("difflung", 0), ("volumes", 1)])
def test_a_volume_changes_in_the_slices_of_its_mask(generators, name, reach):
    """A generator of volumes paints a margin above and below, too."""
    s, depth, inside = scene(), 6, [2, 3]
    image = np.repeat(s.image[None], depth, 0) + np.arange(depth, dtype=np.int16)[:, None, None]
    labels = np.repeat(s.labels[None], depth, 0)
    new_labels = labels.copy()
    new_labels[inside] = s.new_labels
    arguments = {"spacing": (5.0, *PIXEL), "steps": STEPS, "seed": 3, "margin": 2}
    painted = generators[name].paint(image, labels, new_labels, **arguments)
    slices = np.flatnonzero((painted != image).any((1, 2)))
    assert list(slices) == list(range(inside[0] - reach, inside[-1] + 1 + reach))
    np.testing.assert_array_equal(painted[:, ~s.near(2)], image[:, ~s.near(2)])
    assert (painted[inside] != image[inside])[:, s.changed].mean() > 0.8
    np.testing.assert_array_equal(painted, generators[name].paint(image, labels, new_labels, **arguments))


def test_styles_say_how_bright_a_lesion_is(generators):
    """Also where the dataset is not at hand: the generator's folder and the labels are enough."""
    s = scene()
    alone = dl.load_generator(generators["difflung"].folder, labels=LABELS, device="cpu")
    for generator in (generators["difflung"], alone):
        for level in (-950.0, -500.0):
            painted = generator.paint(
                s.image, s.labels, s.new_labels, spacing=PIXEL, steps=10, styles={"emphysema": (level, 20.0)}
            )
            assert painted[s.changed].mean() == pytest.approx(level, abs=15)


def test_without_styles_a_lesion_has_the_level_of_real_ones(generators):
    s = scene()
    painted = generators["difflung"].paint(s.image, s.labels, s.new_labels, spacing=PIXEL, steps=10)
    assert painted[s.changed].mean() == pytest.approx(-940, abs=25)


def test_a_generator_without_its_dataset(generators, tmp_path, monkeypatch):
    """A folder that was given away, whose dataset nobody has."""
    s, folder = scene(), tmp_path / "given"
    shutil.copytree(generators["difflung"].folder, folder)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path))
    with pytest.raises(dl.BadInput, match="or give labels"):
        dl.load_generator(folder, device="cpu")
    with pytest.raises(dl.BadInput, match="trained with normal_lung, emphysema, ILD"):
        dl.load_generator(folder, labels={"background": 0, "lung": 1}, device="cpu")
    other = {"normal_lung": 3, "emphysema": 1, "ILD": 2}
    value = np.zeros(4, int)
    for name, number in other.items():
        value[LABELS[name]] = number
    expected, painted = (
        dl.load_generator(folder, labels=labels, device="cpu").paint(
            s.image, *pair, spacing=PIXEL, steps=STEPS, styles={"emphysema": (-940, 20)}
        )
        for labels, pair in (
            (LABELS, (s.labels, s.new_labels)),
            (other, (value[s.labels], value[s.new_labels])),
        )
    )
    np.testing.assert_array_equal(painted, expected)
    told_nothing = dl.load_generator(folder, labels=LABELS, device="cpu")
    assert (told_nothing.paint(s.image, s.labels, s.new_labels, spacing=PIXEL, steps=STEPS) != s.image).any()


def test_two_lesions_in_distant_slices_are_two(generators):
    """Each gets a real lesion of its own, as their draws show."""
    s = scene()
    image, labels = np.repeat(s.image[None], 5, 0), np.repeat(s.labels[None], 5, 0)
    new_labels = labels.copy()
    new_labels[[0, 4]] = s.new_labels
    painted = generators["difflung"].paint(image, labels, new_labels, spacing=(5, *PIXEL), steps=10, seed=1)
    first, second = (painted[z][s.changed].mean() for z in (0, 4))
    assert abs(first - second) > 0.5


def test_training_through_the_api_is_that_of_the_command(generators):
    """The same settings: neither trains again, and the command's check of the folder passes."""
    trained = generators["cbmat"]
    (weights,) = trained.folder.rglob("*.safetensors")
    files = [weights, trained.folder / "generator.json", trained.folder / "training_log.jsonl"]
    before = [path.stat().st_mtime_ns for path in files]
    assert dl.train_generator(801, 0, method="cbmat", **TINY).folder == trained.folder
    assert [path.stat().st_mtime_ns for path in files] == before
    words = ["-d", "801", "--preset", "fast", "--epochs", "1", "--batch-size", "4", "--patch-size", "16"]
    settings = settings_from(parse([*words, "--method", "cbmat", "-device", "cpu"]))
    plan = dl.plan(801, 0, method="cbmat", **TINY)
    assert plan._fold.settings == settings
    fold_module.check_fold(plan._fold)
    with pytest.raises(dl.BadInput, match="epochs was 1, is now 2"):
        dl.train_generator(801, 0, method="cbmat", **{**TINY, "epochs": 2})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"labels": "[:-1]"}, "new_labels has the shape"),
        ({"image": "[:-1]"}, "image has the shape"),
        ({"image": "nan"}, "NaN"),
        ({"image": "bool"}, "data type bool"),
        ({"image": "+1024"}, "does not hold HU"),
        ({"image": "8 bit"}, "does not hold HU"),
        ({"new_labels": "7"}, "holds the value 7; the labels are 0 background, 1 normal_lung"),
        ({"new_labels": "0.5"}, "no label value"),
        ({"new_labels": "same"}, "nothing to paint"),
        ({"new_labels": "body"}, "from background to emphysema; only normal lung"),
        ({"new_labels": "healed"}, "from ILD to normal_lung"),
        ({"spacing": tuple(np.array([5, 0.8, 0.8]))}, r"is \[5, 0.8, 0.8\]; expected 2 positive numbers in mm"),
        ({"spacing": (0.0, 0.8)}, "expected 2 positive numbers"),
        ({"spacing": (8.0, 8.0)}, "trained on pixels of 0.8 to 0.8 mm"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 1.5}, "seed is 1.5; expected a whole number"),
        ({"steps": "many"}, "steps is 'many'; expected a whole number"),
        ({"margin": 2.5}, "margin is 2.5; expected a whole number"),
        ({"spacing": "fine"}, "spacing is fine; expected 2 positive numbers"),
        ({"steps": 0}, "steps is 0"),
        ({"margin": -1}, "margin is -1"),
        ({"styles": {"ILD": (-600, 80)}}, "styles lacks 'emphysema'"),
        ({"styles": {"nodule": (0, 1), "emphysema": (-900, 1)}}, "styles names 'nodule'"),
        ({"styles": {"emphysema": -900}}, "expected .mean, standard deviation."),
        ({"styles": {"emphysema": (-900, -1)}}, "expected .mean, standard deviation."),
    ],
)
def test_what_is_refused(generators, change, text):
    s = scene()
    arguments = {"image": s.image, "labels": s.labels, "new_labels": s.new_labels, "spacing": PIXEL, "steps": STEPS}
    body = ndimage.binary_erosion((s.image > -300) & (s.labels == 0))
    made = {
        "[:-1]": lambda array: array[:-1],
        "nan": lambda array: np.where(s.changed, np.nan, array),
        "bool": lambda array: array > 0,
        "+1024": lambda array: array + 1024,
        "8 bit": lambda array: np.clip((array + 1000) / 8, 0, 255).astype(np.uint8),
        "7": lambda array: np.where(s.changed, 7, array),
        "0.5": lambda array: np.where(s.changed, 0.5, array),
        "same": lambda _: s.labels,
        "body": lambda array: np.where(body, LABELS["emphysema"], array),
        "healed": lambda array: np.where(array == LABELS["ILD"], LABELS["normal_lung"], array),
    }
    for key, value in change.items():
        arguments[key] = made[value](arguments[key]) if isinstance(value, str) and value in made else value
    with pytest.raises(ValueError, match=text) as refused:
        generators["difflung"].paint(**arguments)
    assert isinstance(refused.value, dl.BadInput)
    assert "\n" not in str(refused.value)


def test_a_class_that_the_generator_has_not_seen_is_refused(generators, tmp_path):
    s, folder = scene(), tmp_path / "copy"
    shutil.copytree(generators["difflung"].folder, folder)
    card = read_card(folder)
    write_json(folder / "generator.json", {**card, "frequencies": {**card["frequencies"], "emphysema": 0.0}})
    with pytest.raises(dl.BadInput, match="trained on cases without emphysema"):
        dl.load_generator(folder, labels=LABELS, device="cpu").paint(s.image, s.labels, s.new_labels, spacing=PIXEL)


def test_a_class_of_specks_alone_needs_styles(folders):
    folder, s = make_dataset(folders[0], patients=3, folds=3), scene()
    for path in (folder / "labelsTr").glob("*.nii.gz"):
        label = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(label)
        array[array == LABELS["emphysema"]] = LABELS["normal_lung"]
        z, y, x = np.argwhere(array == LABELS["normal_lung"])[9]
        array[z, y, x : x + 2] = LABELS["emphysema"]
        specks = sitk.GetImageFromArray(array)
        specks.CopyInformation(label)
        sitk.WriteImage(specks, str(path), True)
    generator = dl.train_generator(801, 0, **TINY)
    with pytest.raises(dl.BadInput, match="hold emphysema only as specks of less than 4 voxels, .*; give styles"):
        generator.paint(s.image, s.labels, s.new_labels, spacing=PIXEL, steps=STEPS)
    told = {"emphysema": (-940, 20)}
    painted = generator.paint(s.image, s.labels, s.new_labels, spacing=PIXEL, steps=STEPS, styles=told)
    assert (painted[s.changed] != s.image[s.changed]).any()
    other = np.where(s.changed, LABELS["ILD"], s.labels)
    assert (generator.paint(s.image, s.labels, other, spacing=PIXEL, steps=STEPS) != s.image).any()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda g: dl.load_generator(801), "fold=0"),
        (lambda g: dl.load_generator(801, 1), "no finished generator"),
        (lambda g: dl.load_generator(801, 9), "folds 0 to 4"),
        (lambda g: dl.load_generator(801, 0, "copy_paste"), "expected difflung, cbmat"),
        (lambda g: dl.load_generator(801, 0, labels=LABELS), "leave it out"),
        (lambda g: dl.load_generator(g["difflung"].folder, 0), "leave fold out"),
        (lambda g: dl.load_generator(Path("nowhere")), "holds no generator.json"),
        (
            lambda g: dl.load_generator(801, 0, device="cuda:1"),
            "is 'cuda:1'; expected cpu, cuda, .*CUDA_VISIBLE_DEVICES",
        ),
        (lambda g: dl.load_generator(801, 0, device=torch.device("cuda", 1)), "is 'cuda:1'; expected cpu"),
        (lambda g: dl.train_generator(801, 0, device="cuda:1"), "'cuda:1' .choose from"),
        (lambda g: dl.load_generator(dl.load_dataset(801, structure_labels=["ILD"]), 0), "the same normal_labels"),
        (lambda g: dl.train_generator(801, 0, method="harmonise"), "no generator of its own"),
        (
            lambda g: g["cbmat"].paint(*vars(scene()).values(), spacing=PIXEL, styles={"emphysema": (-900, 20)}),
            "no effect with method cbmat",
        ),
    ],
)
def test_generators_that_are_not_there(generators, call, text):
    with pytest.raises(dl.BadInput, match=text):
        call(generators)


def test_several_channels(folders):
    make_dataset(folders[0], channels=2, patients=3, folds=3)
    generator, s = dl.train_generator(801, 0, **TINY), scene()
    image = np.stack([s.image, s.image // 2]).astype(np.float32)
    assert generator.channels == ("CT", "extra1")
    painted = generator.paint(
        image, s.labels, s.new_labels, spacing=PIXEL, steps=10, styles={"emphysema": ((-940, -470), (20, 10))}
    )
    np.testing.assert_array_equal(painted[:, ~s.near(3)], image[:, ~s.near(3)])
    np.testing.assert_allclose(painted[:, s.changed].mean(1), (-940, -470), atol=25)
    with pytest.raises(dl.BadInput, match="with the channels CT, extra1 first"):
        generator.paint(image[0], s.labels, s.new_labels, spacing=PIXEL)
