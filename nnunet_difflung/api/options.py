"""Options of ``difflung_augment`` as keyword arguments."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence

from nnunet_difflung.api.dataset import Dataset
from nnunet_difflung.commands.augment import parse, request_from
from nnunet_difflung.errors import BadInput
from nnunet_difflung.pipeline.request import Request

_SHORT = {"device": "-device"}
_OF_DATASET = ("normal_label", "structure_label", "patient_pattern", "patients")
_OF_COMMAND = ("dry_run", "num_gpus", "json", "quiet")


def request_for(dataset: Dataset, fold: int | str, options: Mapping[str, object]) -> Request:
    """The request that ``difflung_augment`` would make of a fold.

    Args:
        dataset: the dataset.
        fold: number, or ``all``.
        options: name of an option with underscores → value; None: the option is not given.

    Raises:
        BadInput: an option is unknown, or its value is wrong.
    """
    for name in options:
        if name in _OF_DATASET:
            raise BadInput(f"{name} is no option here; say it to load_dataset and give the dataset that it returns")
        if name in _OF_COMMAND:
            raise BadInput(f"{name} is an option of the command difflung_augment alone; leave it out")
    words = ["-d", dataset.name, "-f", str(dataset.fold(fold)), *dataset.label_options]
    for name, value in options.items():
        word = _SHORT.get(name, "--" + name.replace("_", "-"))
        if value is not None:
            texts = _texts(value)
            words += [word, *texts] if name in _SHORT else [f"{word}={text}" for text in texts]
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            namespace = parse(words)
    except SystemExit:
        raise BadInput(said.getvalue().strip().splitlines()[-1].partition("error: ")[2]) from None
    return request_from(namespace)


def _texts(value: object) -> list[str]:
    """The words of an option: ``{"emphysema": 0.1}`` is ``emphysema=0.1``, ``(-1000, 400)`` is ``-1000,400``."""
    if isinstance(value, Mapping):
        return [f"{name}={number}" for name, number in value.items()]
    if isinstance(value, Sequence) and not isinstance(value, str):
        if all(isinstance(part, (int, float)) for part in value):
            return [",".join(map(str, value))]
        return [text for part in value for text in _texts(part)]
    return [str(value)]
