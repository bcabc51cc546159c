"""Pictures of the patients in whom the arms do worst: the slice with most wrong voxels, truth and predictions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nnunet_difflung.comparison.scores import Cases, Scores, read_summary
from nnunet_difflung.comparison.segmentations import reader_of, reference_folder
from nnunet_difflung.comparison.statistics import mean_without_nan
from nnunet_difflung.comparison.trainings import Trainings
from nnunet_difflung.dataset.contents import present_cases
from nnunet_difflung.dataset.layout import Case, find_reader
from nnunet_difflung.dataset.orientation import AxialView, axial_view
from nnunet_difflung.dataset.reading import is_ct
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.intensities import judge
from nnunet_difflung.pages.blocks import Gallery, Outline, Picture
from nnunet_difflung.pages.pictures import grey_png, outline_path
from nnunet_difflung.paths import dataset_folders
from nnunet_difflung.runtime.figures import CLASS_COLOURS, LUNG_WINDOW, Window

PATIENTS, MOST_PICTURES = 5, 80  # of a class; of a page
LEAST, WIDEST = 128, 256  # pixels of a picture's side; larger parts are shown at a half, a third, … of their size
TRUTH, PREDICTION = "truth (solid)", "prediction (dashed)"
COLOURS = {TRUTH: CLASS_COLOURS[0], PREDICTION: CLASS_COLOURS[1]}


@dataclass(frozen=True)
class Worst:
    """A patient, and the case of this patient with most wrong voxels of a class.

    Attributes:
        name: of the class.
        patient: name.
        fold: in which the patient is scored.
        case: id.
        dice: arm → mean over the trainings.
    """

    name: str
    patient: str
    fold: int | str
    case: str
    dice: dict[str, float]


class WorstPatients:
    """Finds these patients and draws them; whatever is missing becomes a sentence."""

    def __init__(self, trainings: Trainings, scores: Scores, dataset_json: dict, keys: dict[str, str]):
        """Args: the trainings, their scores, the dataset's dataset.json, and class → key in summary.json."""
        self.trainings, self.scores, self.dataset_json, self.keys = trainings, scores, dataset_json, keys
        self.seed = next(iter(trainings.results))
        self._summaries: dict[tuple[str, int | str], Cases] = {}
        self.missing: dict[str, None] = {}  # sentences, each once

    def galleries(self, rare: Sequence[str]) -> dict[str, Gallery]:
        """Class → pictures of its worst patients, for the classes of which something can be shown."""
        number = max(1, min(PATIENTS, MOST_PICTURES // max(1, len(rare) * len(self.trainings.arms))))
        drawn = 0
        found = {}
        for name in rare:
            columns = []
            for worst in self._find(name, number):
                if drawn + len(self.trainings.arms) > MOST_PICTURES:
                    break
                pictures = self._draw(worst)
                drawn += len(pictures)
                if pictures:
                    columns.append((f"{worst.patient}: {worst.case}", pictures))
            if columns:
                found[name] = Gallery(f"{name}: the patients with the lowest Dice", columns)
        return found

    def _find(self, name: str, number: int) -> list[Worst]:
        c = self.scores.classes.index(name)
        dice = {arm: self.scores.dice(arm)[c] for arm in self.trainings.arms}
        of_patient = {arm: mean_without_nan(values, (0, 1)) for arm, values in dice.items()}
        mean = np.mean(list(of_patient.values()), axis=0)
        order = [p for p in np.argsort(mean, kind="stable") if np.isfinite(mean[p])][:number]
        found = []
        for p in order:
            patient = self.scores.patients[p]
            fold = self.scores.folds[int(np.isfinite(next(iter(dice.values()))[0, :, p]).argmax())]
            cases = [case for case, of in self.scores.cases[fold].items() if of == patient]
            case = max(cases, key=lambda case: self._wrong_in(case, fold, c))
            found.append(Worst(name, patient, fold, case, {arm: float(v[p]) for arm, v in of_patient.items()}))
        return found

    def _wrong_in(self, case: str, fold: int | str, c: int) -> float:
        """False positive and false negative voxels of all arms."""
        for arm in self.trainings.arms:
            if (arm, fold) not in self._summaries:
                path = self.trainings.scored(self.seed, arm, fold) / "summary.json"
                self._summaries[arm, fold] = read_summary(path, self.keys, self.dataset_json["file_ending"])
        return sum(float(self._summaries[arm, fold][case][c, 1:].sum()) for arm in self.trainings.arms)

    def _draw(self, worst: Worst) -> list[Picture]:
        """A picture for each arm whose prediction is there; none without the image or the reference segmentation."""
        try:
            image, view, window = self._image(worst.case)
        except (BadInput, OSError, KeyError, ValueError):
            self.missing["Images of the scored cases are not in the raw dataset on this machine or cannot be read."] = (
                None
            )
            return []
        ending = self.dataset_json["file_ending"]
        try:
            truth = self._mask(reference_folder(self.trainings) / f"{worst.case}{ending}", worst.name, image.shape)
        except (BadInput, OSError, RuntimeError):
            self.missing["Reference segmentations of the scored cases are missing or cannot be read."] = None
            return []
        predictions = {}
        for arm in self.trainings.arms:
            path = self.trainings.scored(self.seed, arm, worst.fold) / f"{worst.case}{ending}"
            try:
                predictions[arm] = self._mask(path, worst.name, image.shape)
            except (BadInput, OSError, RuntimeError):
                self.missing[f"Predictions of {arm} in fold {worst.fold} are missing or cannot be read."] = None
        if not predictions:
            return []
        wrong = np.sum([(mask != truth).sum(axis=(1, 2)) for mask in predictions.values()], axis=0)
        z = int(wrong.argmax())
        planes = {arm: view.turned(mask[z]) for arm, mask in predictions.items()}
        return pictures_of(worst, view.turned(image[z]), view.turned(truth[z]), planes, z, len(image), view, window)

    def _mask(self, path: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """(z, y, x) bool voxels of a class in a segmentation of an image of this shape."""
        label = reader_of(self.dataset_json)(path)[0]
        if label.shape != shape:
            raise BadInput(f"{path} has another shape than its image; predict again")
        value = self.dataset_json["labels"][name]
        return np.isin(label, value if isinstance(value, list) else [value])

    def _image(self, case: str) -> tuple[np.ndarray, AxialView, Window]:
        """(z, y, x) intensities of the channel that is CT, or else of the first one; how they are shown."""
        folder = dataset_folders(self.trainings.dataset)[0]
        files = _test_files(folder, case, self.dataset_json) if self.trainings.predictions else ()
        if folder is not None and not self.trainings.predictions:
            files = present_cases(folder, self.dataset_json)[case].images
        if not files:
            raise BadInput(f"no image of {case}; restore it")
        try:
            image, properties = find_reader(self.dataset_json, {case: Case(case, tuple(files), "")})().read_images(
                files
            )
        except RuntimeError as error:  # of SimpleITK
            raise BadInput(f"an image of {case} cannot be read; restore it") from error
        names = self.dataset_json.get("channel_names", {})
        names = [names[key] for key in sorted(names, key=int)]
        channel = next((number for number, name in enumerate(names) if is_ct(name)), 0)
        values = image[channel]
        in_hu = bool(names) and is_ct(names[channel]) and not judge(values).not_hu
        low, high = LUNG_WINDOW if in_hu else np.percentile(values, (0.5, 99.5))
        return values, axial_view(properties), (float(low), float(high))


def _test_files(folder: Path | None, case: str, dataset_json: dict) -> tuple[str, ...]:
    """The image files of a case in imagesTs."""
    ending = dataset_json["file_ending"]
    if folder is None or not (folder / "imagesTs").is_dir():
        return ()
    with os.scandir(folder / "imagesTs") as entries:
        names = [entry.name for entry in entries if entry.name.endswith(ending)]
    own = [name for name in names if name[: -len(ending)][:-5] == case and name[: -len(ending)][-4:].isdigit()]
    return tuple(str(folder / "imagesTs" / name) for name in sorted(own))


def pictures_of(
    worst: Worst,
    image: np.ndarray,
    truth: np.ndarray,
    predictions: dict[str, np.ndarray],
    z: int,
    depth: int,
    view: AxialView,
    window: Window,
) -> list[Picture]:
    """A picture for each arm of what is marked and its surroundings.

    Args:
        worst: what is shown.
        image: (y, x) intensities as they are shown.
        truth: (y, x) bool.
        predictions: arm → (y, x) bool.
        z: number of the slice.
        depth: number of slices of the case.
        view: how the slice was turned.
        window: intensities that are black and white.
    """
    cut = _around(np.logical_or.reduce([truth, *predictions.values()]))
    step = cut[0].step
    source = grey_png(image[cut], window)
    height, width = image[cut].shape
    pictures = []
    for arm, mask in predictions.items():
        outlines = [
            Outline(name, COLOURS[name], path, name == PREDICTION)
            for name, of in ((TRUTH, truth), (PREDICTION, mask))
            if (path := outline_path(of[cut]))
        ]
        wrong = int((mask != truth).sum())
        pictures.append(
            Picture(
                f"{arm}: Dice {worst.dice[arm]:.2f}",
                {f"window {window[0]:g} to {window[1]:g}": source},
                width,
                height,
                view.aspect,
                outlines,
                step * view.millimetres if view.millimetres else None,
                view.sides,
                note=f"{f'slice {z}, ' if depth > 1 else ''}{wrong} wrong voxels",
            )
        )
    return pictures


def _around(marked: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the marked part of a slice and some surroundings; the whole slice if nothing is marked."""
    edges = []
    for length, inside in zip(marked.shape, (marked.any(1), marked.any(0)), strict=True):
        places = np.flatnonzero(inside) if inside.any() else np.arange(length)
        first, last = int(places[0]), int(places[-1]) + 1
        margin = max(12, (LEAST - (last - first) + 1) // 2)
        edges.append((max(0, first - margin), min(length, last + margin)))
    step = -(-max(last - first for first, last in edges) // WIDEST)
    return tuple(slice(first, last, step) for first, last in edges)  # type: ignore[return-value]
