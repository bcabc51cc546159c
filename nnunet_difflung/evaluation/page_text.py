"""A paragraph for a manuscript that says how Table 1 was made."""

from __future__ import annotations

from nnunet_difflung.evaluation.references import REFERENCES
from nnunet_difflung.methods import METHODS
from nnunet_difflung.runtime.wording import counted


def methods_paragraph(table: dict) -> str:
    """The paragraph, from the content of ``table1.json``."""
    meta = table["meta"]
    methods = [name for name in table if name in METHODS]
    described = "; ".join(f"{name} ({METHODS[name].explanation}; {_iterations(meta, name)})" for name in methods)
    folds = list(map(str, meta["folds"]))
    windows = sorted({tuple(window) for window in meta["windows"].values()})
    clipped = " or ".join(f"[{low:g}, {high:g}]" for low, high in windows)
    unit = "HU" if meta["unit"] == "HU" else "grey levels"
    limit = f", at most {meta['max_slices']} of a fold, evenly spaced" if meta["max_slices"] else ""
    references = "; ".join(f"{name} ({REFERENCES[name]})" for name in table if name in REFERENCES)
    return " ".join(
        [
            f"With nnunet_difflung {meta['versions']['nnunet_difflung']}, generators painted whole slices from the "
            f"masks of the validation slices that show lung{limit}: {counted(meta['slices'], 'slice')} of "
            f"{counted(meta['patients'], 'patient')}, {'folds' if len(folds) > 1 else 'fold'} {', '.join(folds)}; "
            "no generator was trained on a patient whose masks it paints.",
            f"Methods: {described}.",
            f"Each mask was painted {meta['samples']} times ({meta['sampling']}).",
            f"Images were clipped to {clipped} {unit} and mapped to [0, 1]; PSNR and SSIM (scikit-image "
            f"{meta['versions']['scikit-image']}, Gaussian window 11/1.5, data range 1) are given over the slice and "
            "over the lung.",
            "Of each class, the bias of the mean, the 1-Wasserstein distance, the ratio of standard deviations, and an "
            "energy distance of local texture were computed over the voxels of a patient, then averaged over patients.",
            f"References: {references}.",
        ]
    )


def _iterations(meta: dict, name: str) -> str:
    return f"{' or '.join(f'{number:,}' for number in meta['iterations'][name])} iterations"
