"""Further options that a script hands on to another command, in one string.

They come after those that the script gives itself, and of an option that is given twice argparse takes the last. So
what a script gives itself is refused in them: an arm's ``--method``, for example, would be another's without a word.
"""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Sequence
from typing import Any, NoReturn

from nnunet_difflung.commands import augment, evaluate
from nnunet_difflung.dataset_conversion.public import sets
from nnunet_difflung.errors import BadInput


def of_augment(option: str, words: str | Sequence[str], *own: str) -> list[str]:
    """The words of further options of ``difflung_augment``.

    Args:
        option: of the script, which holds them.
        words: its value, or the words of it.
        own: options of ``difflung_augment`` that the script gives itself.

    Raises:
        BadInput: one of ``own`` is among the words, or ``difflung_augment`` does not have what they say.
    """
    return _further(option, words, own, augment.parser(), "difflung_augment")


def of_evaluate(option: str, words: str | Sequence[str], *own: str) -> list[str]:
    """As ``of_augment``, of ``difflung_evaluate``."""
    return _further(option, words, own, evaluate.parser(), "difflung_evaluate")


def of_converter(option: str, words: str | Sequence[str], dataset: str, *own: str) -> list[str]:
    """As ``of_augment``, of the converter of a dataset, ``DatasetXXX_NAME``; id and name are always the script's."""
    module = importlib.import_module(f"nnunet_difflung.dataset_conversion.{dataset}")
    parser = sets.parser(module.PUBLIC, "") if hasattr(module, "PUBLIC") else module.parser()
    return _further(option, words, ("--dataset-id", "--name", *own), parser, "the converter", all_known=False)


class _Own(argparse.Action):
    """An option that may not be given."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, name: Any = None):
        raise BadInput(self.help)


def _further(
    option: str,
    words: str | Sequence[str],
    own: Sequence[str],
    parser: argparse.ArgumentParser,
    command: str,
    all_known: bool = True,
) -> list[str]:
    """See ``of_augment``; the command's own parser finds the options, also abbreviated ones."""
    words = shlex.split(words) if isinstance(words, str) else list(words)
    options = parser._option_string_actions
    for name in own:
        if usual := options.get(name):
            fault = f"{option} {shlex.join(words)!r} holds {name} of {command}, which this script gives itself"
            refused = _Own(usual.option_strings, usual.dest, usual.nargs, help=f"{fault}; leave it out")
            options.update(dict.fromkeys(usual.option_strings, refused))
    for action in parser._actions:
        action.required = False

    def refuse(message: str) -> NoReturn:
        raise BadInput(f"{option} {shlex.join(words)!r}: {command} says {message}")

    parser.error = refuse  # type: ignore[method-assign]
    parser.parse_args(words) if all_known else parser.parse_known_args(words)
    return words
