"""The range of intensities for PSNR and SSIM where a channel called CT does not hold HU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnunet_difflung.config import CT_WINDOW, GeneratorConfig
from nnunet_difflung.dataset.cache import SliceCache
from nnunet_difflung.dataset.hu_check import doubts
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.evaluation.real_slices import Window
from nnunet_difflung.generator.encoding import intensity_windows

GREY_LEVELS = "grey levels"


def windows_of_values(
    raw: RawDataset,
    cache: SliceCache,
    windows: Mapping[int, Window],
    configs: Mapping[int, Sequence[GeneratorConfig]],
    channel: int = 0,
) -> tuple[dict[int, Window], str]:
    """The windows of the metrics, and a warning, ``""`` if they may stay as they are.

    2000 HU as the range of values that span 255 would add 18 dB to every PSNR. So where a channel called CT does not
    hold HU, the range is the generators' window or, if that is the one of HU, the percentiles of the fold's training
    cases that are used for other channels.

    Args:
        raw: the dataset.
        cache: its cases.
        windows: fold → window as the channel's name tells.
        configs: fold → settings of the generators that are compared.
        channel: the channel that is compared.
    """
    found = [doubt for doubt in doubts(raw, cache.facts) if doubt.channel == channel]
    if not found:
        return dict(windows), ""
    changed = {}
    for fold in windows:
        trained = {tuple(config.windows[channel]) for config in configs[fold]}
        if len(trained) == 1 and trained != {CT_WINDOW}:
            low, high = trained.pop()
        else:
            names = ["" for _ in raw.channels]
            low, high = intensity_windows(cache, raw.training_cases(fold), names)[channel]
        changed[fold] = (low, high)
    text = found[0].text(raw.channels[channel])
    return changed, f"Warning: {raw.name}: {text}; all figures are in grey levels and not in HU"
