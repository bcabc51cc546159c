"""nnU-Net trainers of this package. Each arm exists in nnU-Net's usual lengths, e.g. ``…DiffLung_20epochs``."""

from nnunet_difflung.methods import METHODS, Method
from nnunet_difflung.trainers.nnUNetTrainerDiffLung import (
    LENGTHS,
    nnUNetTrainerDiffLung,
    nnUNetTrainerDiffLungPoly,
    nnUNetTrainerDiffLungReference,
    nnUNetTrainerDiffLungReferencePoly,
)
from nnunet_difflung.trainers.nnUNetTrainerDiffLungOversampling import nnUNetTrainerDiffLungOversampling


def _of_method(method: Method) -> type[nnUNetTrainerDiffLung]:
    """The trainer of a method's arm: real cases and the synthetic cases of that method."""
    if method.name == nnUNetTrainerDiffLung.method:
        return nnUNetTrainerDiffLung
    about = f"Trains on the real cases and those of --method {method.name}: {method.explanation}."
    return type(
        method.trainer,
        (nnUNetTrainerDiffLung,),
        {"method": method.name, "otherwise": (), "__module__": __name__, "__doc__": about},
    )


ARMS = (
    *(_of_method(method) for method in METHODS.values()),
    nnUNetTrainerDiffLungReference,
    nnUNetTrainerDiffLungOversampling,
    nnUNetTrainerDiffLungPoly,
    nnUNetTrainerDiffLungReferencePoly,
)


def _of_length(arm: type[nnUNetTrainerDiffLung], epochs: int) -> type[nnUNetTrainerDiffLung]:
    """Subclass of ``arm`` that trains for ``epochs`` epochs, named as nnU-Net names its own."""
    name = f"{arm.__name__}_{epochs}epoch{'s' if epochs > 1 else ''}"
    return type(name, (arm,), {"epochs": epochs, "__module__": __name__, "__doc__": arm.__doc__})


_VARIANTS = {cls.__name__: cls for cls in (_of_length(arm, epochs) for arm in ARMS for epochs in LENGTHS)}
globals().update({arm.__name__: arm for arm in ARMS} | _VARIANTS)
__all__ = [arm.__name__ for arm in ARMS] + list(_VARIANTS)
