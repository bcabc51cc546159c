"""The families of methods, a file each: how they train, paint and are kept on disk.

A file ``NAME.py`` here is the family ``NAME`` of ``methods.METHODS``. It defines ``FAMILY``, a subclass of ``Family``
or, where it has a network to train, of ``TrainedFamily``. It is imported when one of its methods is first used.
"""

from __future__ import annotations

from importlib import import_module

from nnunet_difflung.generator.families.interface import Family, TrainedFamily
from nnunet_difflung.methods import Method


def family_of(method: Method) -> Family:
    """How a method paints, what it costs, and which options it uses."""
    return import_module(f"{__name__}.{method.family}").FAMILY(method)


def trained_family_of(method: Method) -> TrainedFamily:
    """How a method's own generator is trained and kept.

    Raises:
        ValueError: it has none; ``method.trained`` is the method whose generator it uses.
    """
    family = family_of(method)
    if not isinstance(family, TrainedFamily):
        raise ValueError(f"method {method.name!r} trains no generator of its own")
    return family
