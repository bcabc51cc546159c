"""The families of methods, one file each: how they train, paint, and are saved and loaded.

A file ``NAME.py`` here is the family ``NAME`` of ``methods.METHODS``. It defines ``FAMILY``, a subclass of ``Family``
or, if it has a network to train, of ``TrainedFamily``. It is imported when one of its methods is first used.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module

from nnunet_difflung.config import SamplingConfig
from nnunet_difflung.generator.families.interface import STYLE_OPTIONS, Family, TrainedFamily
from nnunet_difflung.methods import Method


def family_of(method: Method) -> Family:
    """The family of a method: how it paints, how long that takes, and which options it uses."""
    return import_module(f"{__name__}.{method.family}").FAMILY(method)


def with_own_sampling(method: Method, sampling: SamplingConfig) -> SamplingConfig:
    """A preset's settings of painting, with the method's own sampler and margin, and without what it ignores."""
    family = family_of(method)
    told = {} if family.uses_style else {name: getattr(SamplingConfig, name) for name in STYLE_OPTIONS}
    margin = sampling.margin if family.margin is None else family.margin
    return replace(sampling, sampler=family.sampler or sampling.sampler, margin=margin, **told)


def trained_family_of(method: Method) -> TrainedFamily:
    """The family of a method that trains a generator of its own.

    Raises:
        ValueError: the method trains none; ``method.trained`` is the method whose generator it uses.
    """
    family = family_of(method)
    if not isinstance(family, TrainedFamily):
        raise ValueError(f"method {method.name!r} trains no generator of its own")
    return family
