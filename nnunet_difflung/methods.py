"""The methods that make synthetic cases; all of them use the same folds, masks and injection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Method:
    """One arm of a comparison.

    Attributes:
        name: as in ``--method`` and in the manifest.
        family: how it trains and paints; the name of a file in ``generator/families``.
        generator: the method whose generator paints; empty for a method that needs no generator.
        trainer: name of the nnU-Net trainer that trains on the method's cases.
        explanation: for help texts and reports.
        ablation: which masks are hidden from the network in training: ``cbmat`` (class-balanced), ``mat`` (uniform) or
            ``none``.
    """

    name: str
    family: str
    generator: str
    trainer: str
    explanation: str
    ablation: str = "none"

    @property
    def trained(self) -> Method:
        """The method whose generator paints; the method itself if it needs no generator."""
        return METHODS[self.generator] if self.generator else self


_ALL = (
    Method(
        "difflung",
        "context",
        "difflung",
        "nnUNetTrainerDiffLung",
        "diffusion that fills the new lesion given the real slice around it, its level and its spread",
        ablation="cbmat",
    ),
    Method(
        "cbmat",
        "diffusion",
        "cbmat",
        "nnUNetTrainerDiffLungCBMAT",
        "diffusion, class-balanced mask ablation (Diff-Lung as published)",
        ablation="cbmat",
    ),
    Method(
        "mat",
        "diffusion",
        "mat",
        "nnUNetTrainerDiffLungSegGuided",
        "diffusion, uniform mask ablation (segmentation-guided diffusion)",
        ablation="mat",
    ),
    Method("none", "diffusion", "none", "nnUNetTrainerDiffLungNoAblation", "diffusion without mask ablation"),
    Method(
        "pix2pix", "gan", "pix2pix", "nnUNetTrainerDiffLungPix2Pix", "conditional GAN: U-Net, PatchGAN, L1 (Isola 2017)"
    ),
    Method(
        "spade",
        "gan",
        "spade",
        "nnUNetTrainerDiffLungSpade",
        "conditional GAN: SPADE, multi-scale discriminators, feature matching (Park 2019)",
    ),
    Method(
        "copy_paste", "copy", "", "nnUNetTrainerDiffLungCopyPaste", "real lesion texture pasted and blended, no network"
    ),
    Method(
        "harmonise",
        "harmonise",
        "cbmat",
        "nnUNetTrainerDiffLungHarmonise",
        "the cbmat diffusion started from the pasted texture at a middle noise level",
    ),
)
METHODS = {method.name: method for method in _ALL}
