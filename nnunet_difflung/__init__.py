"""Diff-Lung for nnU-Net v2: rare lung classes, painted by diffusion, without leaking a validation patient.

The names of the Python API (docs/api.md) are imported when they are first used, so that importing the package is quick.
"""

from __future__ import annotations

__version__ = "0.2.0.dev0"

__all__ = [
    "BadInput",
    "Case",
    "Comparison",
    "Dataset",
    "Failed",
    "FoldPlan",
    "Generator",
    "PlannedMask",
    "compare",
    "load_dataset",
    "load_generator",
    "plan",
    "train_generator",
    "write_report",
]

TYPE_CHECKING = False  # as of typing, which would take longer to import than all of this

if TYPE_CHECKING:
    from nnunet_difflung.api.compare import Comparison, compare
    from nnunet_difflung.api.dataset import Case, Dataset, load_dataset
    from nnunet_difflung.api.generator import Generator, load_generator, train_generator
    from nnunet_difflung.api.plan import FoldPlan, PlannedMask, plan
    from nnunet_difflung.api.report import write_report
    from nnunet_difflung.errors import BadInput, Failed
else:
    _MODULES = {
        "api.compare": ("Comparison", "compare"),
        "api.dataset": ("Case", "Dataset", "load_dataset"),
        "api.generator": ("Generator", "load_generator", "train_generator"),
        "api.plan": ("FoldPlan", "PlannedMask", "plan"),
        "api.report": ("write_report",),
        "errors": ("BadInput", "Failed"),
    }

    def __getattr__(name: str):
        """A name of ``__all__``, imported at its first use."""
        from importlib import import_module

        for module, names in _MODULES.items():
            if name in names:
                globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
                return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        """All names, also those that are not imported yet."""
        return sorted({*globals(), *__all__})
