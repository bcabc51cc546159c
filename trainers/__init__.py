"""nnU-Net trainers of this package. Each arm exists in nnU-Net's usual lengths, e.g. ``…DiffLung_20epochs``."""

from nnunet_difflung.trainers.nnUNetTrainerDiffLung import (
    nnUNetTrainerDiffLung,
    nnUNetTrainerDiffLungCopyPaste,
    nnUNetTrainerDiffLungHarmonise,
    nnUNetTrainerDiffLungNoAblation,
    nnUNetTrainerDiffLungPix2Pix,
    nnUNetTrainerDiffLungPoly,
    nnUNetTrainerDiffLungReference,
    nnUNetTrainerDiffLungReferencePoly,
    nnUNetTrainerDiffLungSegGuided,
    nnUNetTrainerDiffLungSpade,
)

ARMS = (
    nnUNetTrainerDiffLung,
    nnUNetTrainerDiffLungReference,
    nnUNetTrainerDiffLungSegGuided,
    nnUNetTrainerDiffLungNoAblation,
    nnUNetTrainerDiffLungPix2Pix,
    nnUNetTrainerDiffLungSpade,
    nnUNetTrainerDiffLungCopyPaste,
    nnUNetTrainerDiffLungHarmonise,
    nnUNetTrainerDiffLungPoly,
    nnUNetTrainerDiffLungReferencePoly,
)
LENGTHS = (1, 5, 10, 20, 100, 250)


def _of_length(arm: type[nnUNetTrainerDiffLung], epochs: int) -> type[nnUNetTrainerDiffLung]:
    """Subclass of ``arm`` that trains for ``epochs`` epochs, named as nnU-Net names its own."""
    name = f"{arm.__name__}_{epochs}epoch{'s' if epochs > 1 else ''}"
    return type(name, (arm,), {"epochs": epochs, "__module__": __name__, "__doc__": arm.__doc__})


_VARIANTS = {cls.__name__: cls for cls in (_of_length(arm, epochs) for arm in ARMS for epochs in LENGTHS)}
globals().update(_VARIANTS)
__all__ = [arm.__name__ for arm in ARMS] + list(_VARIANTS)
