"""A trained generator that paints masks given as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import index
from pathlib import Path
from types import MappingProxyType

import numpy as np

from nnunet_difflung.api.arrays import Volume, as_volume
from nnunet_difflung.api.dataset import Dataset, as_dataset
from nnunet_difflung.api.options import request_for
from nnunet_difflung.commands.devices import chosen_device
from nnunet_difflung.config import CT_WINDOW, METHOD, SamplingConfig, preset
from nnunet_difflung.dataset.channels import Relations, find_relations
from nnunet_difflung.dataset.reading import condition_map, judged_channels
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.card import CARD, read_card
from nnunet_difflung.generator.families import family_of, with_own_sampling
from nnunet_difflung.generator.store import load_generator as load_weights
from nnunet_difflung.generator.trained import Generator as Weights
from nnunet_difflung.lesions.balance import collect_lesions
from nnunet_difflung.lesions.masks import MIN_VOXELS, Lesion
from nnunet_difflung.meaning.labels import BODY, LabelRoles
from nnunet_difflung.methods import METHODS
from nnunet_difflung.painting.drawn_mask import Drawn, Looks, paint_mask, real_looks, told_looks
from nnunet_difflung.paths import fold_folder, fold_name, method_name
from nnunet_difflung.pipeline.augment import train
from nnunet_difflung.pipeline.planning import readable_cases
from nnunet_difflung.preparing.styles import styles_of
from nnunet_difflung.runtime.device import usual_precision

_LARGEST_SEED = 2**31
_PIXEL = 1.5  # factor by which a pixel may be smaller or larger than those of the training cases


class Generator:
    """A trained generator, ready to paint; made by ``load_generator`` or ``train_generator``.

    Args:
        weights: the network and its settings.
        card: its ``generator.json``.
        roles: of the labels.
        device: ``cpu``, ``cuda`` or ``mps``.
        dataset: whose cases it was trained on; None if they are not at hand.
    """

    def __init__(self, weights: Weights, card: dict, roles: LabelRoles, device: str, dataset: Dataset | None) -> None:
        self._weights, self._roles, self._dataset = weights, roles, dataset
        self._method = METHODS[card["config"]["method"]]
        self._frequencies: dict[str, float] = card["frequencies"]
        self.channels: tuple[str, ...] = tuple(card["channels"])
        """Names of the image's channels, in order."""
        self.device = device
        """Where it paints."""

    @property
    def method(self) -> str:
        """The method that it was trained for."""
        return self._method.name

    @property
    def folder(self) -> Path:
        """The folder of its files."""
        return self._weights.folder

    @property
    def labels(self) -> Mapping[str, int]:
        """Name → value of the labels, without background and ``ignore``."""
        return MappingProxyType(self._roles.values)

    @property
    def pathologies(self) -> tuple[str, ...]:
        """The labels that it can paint."""
        return self._roles.pathologies

    @property
    def training_cases(self) -> tuple[str, ...]:
        """Ids of the cases that it was trained on, and no others."""
        return self._weights.training_cases

    def __repr__(self) -> str:
        return f"Generator(method={self.method!r}, pathologies={self.pathologies}, folder={str(self.folder)!r})"

    def paint(
        self,
        image: np.ndarray,
        labels: np.ndarray,
        new_labels: np.ndarray,
        *,
        spacing: Sequence[float],
        seed: int = 0,
        styles: Mapping[str, tuple[float | Sequence[float], float | Sequence[float]]] | None = None,
        steps: int | None = None,
        margin: int | None = None,
    ) -> np.ndarray:
        """Paints the lesions that ``new_labels`` adds to ``labels`` into an image.

        What is painted: the voxels whose label changes, from normal lung to a pathology, and ``margin`` pixels of
        normal lung around them (in volumes, with a generator that was trained on volumes, as many mm above and below
        them, at least one slice). All other voxels are those of ``image``, bit by bit. The same arguments give the
        same image. No gate judges the result, as ``difflung_augment`` does.

        Args:
            image: (y, x) or (z, y, x), with a first axis for the channels if there are several (allowed for one, too);
                in the intensities of the training cases, which is HU for channels called CT. Integers or floats.
            labels: (y, x) or (z, y, x) label values of the image; they say what is normal lung.
            new_labels: the same with the new lesions; each connected part of them is a lesion.
            spacing: of the axes of ``labels`` in mm, (y, x) or (z, y, x).
            seed: of the noise, and of the choice of real lesions; 0 to 2³¹ − 1.
            styles: pathology → mean and standard deviation of its painted intensities (a number for each channel if
                there are several), for all pathologies that are painted, with method ``difflung``. Without it each
                lesion gets those of a real lesion of the training cases, drawn at random; if the generator was loaded
                from a folder without its dataset, the network chooses.
            steps: denoising steps; None: 25.
            margin: pixels of normal lung that are painted around a lesion, so that it joins its surroundings; None: 2
                with method ``difflung``, else 3.

        Returns:
            An image of the shape and data type of ``image``; integers are rounded.

        Raises:
            BadInput: (a ``ValueError``) shapes, labels, spacing, intensities or an option are wrong.
        """
        seed = _whole_number("seed", seed)
        if not 0 <= seed < _LARGEST_SEED:
            raise BadInput(f"seed is {seed}; expected a whole number from 0 to {_LARGEST_SEED - 1}")
        sampling = self._sampling(steps, margin)
        volume = as_volume(image, labels, new_labels, spacing, self.channels, self._roles)
        painted = [name for name in self.pathologies if (_changed_to(volume, self._roles.values[name])).any()]
        looks = self._looks(styles, painted)
        drawn = self._drawn(volume, seed)
        values, region = paint_mask(
            drawn, self._method, self._weights, self._roles, sampling, looks, self._relations, self.device
        )
        return volume.with_values(values, region, np.shape(image))

    def _sampling(self, steps: int | None, margin: int | None) -> SamplingConfig:
        """The settings of painting: those of the default preset, which fills regions, with the given ones."""
        sampling = with_own_sampling(self._method, preset("default").sampling)
        most = family_of(self._method).most_steps(self._weights.config)
        steps = None if steps is None else _whole_number("steps", steps)
        margin = None if margin is None else _whole_number("margin", margin)
        if steps is not None and not 1 <= steps <= (most or steps):
            raise BadInput(f"steps is {steps}; expected {f'1 to {most}' if most else '1 or more'}")
        if margin is not None and margin < 0:
            raise BadInput(f"margin is {margin}; expected a number of pixels, 0 or more")
        steps, margin = sampling.steps if steps is None else steps, sampling.margin if margin is None else margin
        return replace(sampling, steps=steps, margin=margin, precision=usual_precision(self.device))

    def _looks(self, styles: Mapping[str, tuple] | None, painted: list[str]) -> Looks | None:
        """How the lesions of the painted pathologies are to look."""
        unseen = [name for name in painted if not self._frequencies[name]]
        if unseen:
            raise BadInput(f"{self.folder} was trained on cases without {unseen[0]}, so it cannot paint it")
        if not family_of(self._method).uses_style:
            if styles is not None:
                raise BadInput(f"styles has no effect with method {self.method}; leave it out")
            return None
        if styles is None:
            self._check_lesions(painted)
            return self._real_looks
        unknown, missing = sorted(set(styles) - set(self.pathologies)), [name for name in painted if name not in styles]
        if unknown or missing:
            wrong = f"names {unknown[0]!r}" if unknown else f"lacks {missing[0]!r}, which new_labels adds"
            raise BadInput(f"styles {wrong}; expected (mean, standard deviation) of {', '.join(painted)}")
        return told_looks({name: self._told(name, style) for name, style in styles.items()})

    def _check_lesions(self, painted: list[str]) -> None:
        """Refuses pathologies of which the training cases, if they are at hand, hold no lesion that tells its looks."""
        specks = [name for name in painted if self._cases and name not in self._cases.with_lesions]
        if specks:
            raise BadInput(
                f"the training cases of {self.folder} hold {specks[0]} only as specks of less than {MIN_VOXELS} "
                f"voxels, which do not say how a lesion looks; give styles, with mean and standard deviation of "
                f"{', '.join(painted)}"
            )

    def _told(self, name: str, style: tuple) -> tuple[np.ndarray, np.ndarray]:
        """(c,) mean and (c,) standard deviation that ``styles`` has for a pathology."""
        try:
            level, spread = (np.broadcast_to(np.asarray(part, float), (len(self.channels),)) for part in style)
        except (TypeError, ValueError):
            level = spread = np.full(len(self.channels), np.nan)
        if not (np.isfinite(level).all() and np.isfinite(spread).all() and (spread >= 0).all()):
            raise BadInput(
                f"styles[{name!r}] is {style}; expected (mean, standard deviation) in the image's intensities, each a "
                f"number or one for each of the channels {', '.join(self.channels)}"
            )
        return level, spread

    def _drawn(self, volume: Volume, seed: int) -> Drawn:
        """The mask to paint, with the derived body class; refuses other intensities and pixels than in training."""
        judged = judged_channels(self.channels, self._roles, volume.image, volume.label)
        for name, judgement, window in zip(self.channels, judged, self._weights.config.windows, strict=True):
            if judgement is not None and judgement.not_hu and tuple(window) == CT_WINDOW:
                raise BadInput(
                    f"channel {name} of image does not hold HU: {judgement.found()}, {judgement.because()}; expected "
                    f"air at -1000 and soft tissue around 40: convert it to HU"
                )
        pixel = float(np.sqrt(volume.spacing[1] * volume.spacing[2]))
        if self._cases and not self._cases.pixels[0] / _PIXEL <= pixel <= self._cases.pixels[1] * _PIXEL:
            raise BadInput(
                f"spacing: pixels of {pixel:g} mm; the generator was trained on pixels of {self._cases.pixels[0]:g} to "
                f"{self._cases.pixels[1]:g} mm: resample image and labels, or correct spacing, which is in mm"
            )
        condition = condition_map(volume.image, volume.label, self._roles, judged)
        return Drawn(volume.image, volume.label, volume.new_label, condition, volume.spacing, seed)

    @property
    def _real_looks(self) -> Looks | None:
        return self._cases.looks if self._cases else None

    @property
    def _relations(self) -> Relations | None:
        return self._cases.relations if self._cases else None

    @cached_property
    def _cases(self) -> _TrainingCases | None:
        """What the training cases say; None without the dataset."""
        if self._dataset is None:
            return None
        raw, training = self._dataset.raw, self.training_cases
        missing = sorted(set(training) - set(raw.cases))
        if missing:
            raise BadInput(
                f"{self.folder} was trained on {missing[0]}, which {raw.name} does not have; restore the case, or load "
                f"the generator from its folder with labels, which needs no dataset"
            )
        cases, sampling = readable_cases(raw, progress=False), preset("default").sampling
        pixels = [float(np.sqrt(cases.facts[i].spacing[1] * cases.facts[i].spacing[2])) for i in training]
        looks, lesions = None, dict[str, list[Lesion]]()
        if family_of(self._method).uses_style:
            lesions = collect_lesions(training, cases.facts, self._roles, cases.label)
            styles = {name: styles_of(found, cases, raw.patients, sampling) for name, found in lesions.items()}
            looks = real_looks(lesions, styles, cases)
        with_lesions = tuple(name for name, found in lesions.items() if found)
        return _TrainingCases((min(pixels), max(pixels)), looks, with_lesions, find_relations(cases, training))


@dataclass(frozen=True)
class _TrainingCases:
    """What the training cases of a generator say.

    Attributes:
        pixels: smallest and largest pixel in mm.
        looks: of real lesions; None for a method that is not told them.
        with_lesions: the pathologies that have looks.
        relations: what holds between their channels.
    """

    pixels: tuple[float, float]
    looks: Looks | None
    with_lesions: tuple[str, ...]
    relations: Relations


def _whole_number(name: str, value: object) -> int:
    """An integer of Python or NumPy as one of Python."""
    try:
        return index(value)  # type: ignore[arg-type]
    except TypeError:
        raise BadInput(f"{name} is {value!r}; expected a whole number") from None


def _changed_to(volume: Volume, value: int) -> np.ndarray:
    return (volume.new_label == value) & (volume.label != value)


def load_generator(
    source: Dataset | str | int | Path,
    fold: int | str | None = None,
    method: str = METHOD,
    *,
    labels: Mapping[str, int] | None = None,
    device: str | None = None,
) -> Generator:
    """Loads the generator of a fold, or one from its folder.

    Args:
        source: dataset (from ``load_dataset``, or its id or name), or the generator's folder as a ``Path``
            (``…/DiffLung__METHOD/fold_K``).
        fold: number, or ``all``, with a dataset.
        method: of ``difflung_augment --method``, with a dataset; one that trains a generator of its own.
        labels: for a folder whose dataset is not in ``$nnUNet_raw``: name → value of the labels, as in
            ``dataset.json``. With it the dataset is not looked for.
        device: ``cpu``, ``cuda`` or ``mps``; None: the fastest there is.

    Raises:
        BadInput: there is no such generator, or it does not fit the dataset or the labels.
    """
    chosen = chosen_device(device)
    if isinstance(source, Path):
        if fold is not None:
            raise BadInput(f"fold={fold}: {source} is the folder of one fold already; leave fold out")
        return _from_folder(source, labels, chosen)
    if labels is not None:
        raise BadInput("labels: the dataset says what its labels are; leave it out")
    if fold is None:
        raise BadInput("say which fold's generator is meant, such as fold=0")
    _check_method(method)
    dataset = as_dataset(source)
    return _of_dataset(fold_folder(dataset.name, method, dataset.fold(fold)), dataset, chosen)


def train_generator(dataset: Dataset | str | int | Path, fold: int | str = 0, **options: object) -> Generator:
    """Trains a fold's generator, or resumes its training, on the fold's training cases; returns one that is finished.

    It is the generator that ``difflung_augment`` trains with the same options, in the same folder; that command finds
    it later. Synthetic cases are not made.

    Args:
        dataset: from ``load_dataset``, or what it takes.
        fold: number, or ``all``.
        options: as of ``plan``.

    Raises:
        BadInput: ``difflung_augment`` would refuse the dataset or an option, or the fold has a generator with other
            settings.
    """
    view = as_dataset(dataset)
    request = request_for(view, fold, options)
    _check_method(request.settings.method)
    (trained,) = train(request)
    return _of_dataset(trained.folder, view, request.device)


def _check_method(method: str) -> None:
    """Refuses methods that do not paint with a network alone."""
    own = [name for name, each in METHODS.items() if each.generator == name]
    if method not in own:
        raise BadInput(f"method {method!r} has no generator of its own; expected {', '.join(own)}")


def _of_dataset(folder: Path, dataset: Dataset, device: str) -> Generator:
    """The generator in a folder, whose dataset is there."""
    weights, card, roles = load_weights(folder, device), read_card(folder), dataset.raw.roles
    if weights.conditions != roles.conditions or set(card["frequencies"]) != set(roles.pathologies):
        raise BadInput(
            f"{folder} was trained with the labels {', '.join(weights.conditions[:-1])}, of which "
            f"{', '.join(card['frequencies'])} are pathologies, but {dataset.name} has "
            f"{', '.join(roles.conditions[:-1])} with the pathologies {', '.join(roles.pathologies)}; tell "
            f"load_dataset the same normal_labels and structure_labels as in training"
        )
    if tuple(card["channels"]) != dataset.channels:
        raise BadInput(
            f"{folder} was trained on the channels {', '.join(card['channels'])}, but {dataset.name} has "
            f"{', '.join(dataset.channels)}; train it again"
        )
    return Generator(weights, card, roles, device, dataset)


def _from_folder(folder: Path, labels: Mapping[str, int] | None, device: str) -> Generator:
    """The generator in a folder; without ``labels`` its dataset is looked for."""
    if not (folder / CARD).is_file():
        example = f"{method_name(METHOD)}/{fold_name(0)}"
        raise BadInput(f"{folder} holds no {CARD}; give the folder of a generator, such as …/{example}")
    card = read_card(folder)
    if labels is None:
        try:
            dataset = as_dataset(card["dataset"])
        except BadInput as error:
            raise BadInput(f"{error}; or give labels, with which the dataset is not needed") from error
        return _of_dataset(folder, dataset, device)
    return Generator(load_weights(folder, device), card, _roles(card, labels), device, None)


def _roles(card: dict, labels: Mapping[str, int]) -> LabelRoles:
    """The roles of the labels that a generator was trained with, with the given values."""
    names = [name for name in card["conditions"] if name != BODY]
    values = {name: value for name, value in labels.items() if name not in ("background", "ignore")}
    if set(values) != set(names) or len(set(values.values())) != len(values):
        raise BadInput(
            f"labels names {', '.join(values) or 'nothing'}; the generator was trained with {', '.join(names)}: give "
            f"each of them its own value"
        )
    pathologies = tuple(name for name in names if name in card["frequencies"])
    first = names.index(pathologies[0])
    return LabelRoles(
        tuple(names[:first]),
        pathologies,
        tuple(names[first + len(pathologies) :]),
        {name: int(value) for name, value in values.items()},
        labels.get("ignore"),
    )
