"""Diff-Lung for nnU-Net v2: rare lung classes, painted by diffusion, without leaking a validation patient."""
import os as _os

__version__ = "0.1.0"

# In a checkout trainers/ and dataset_conversion/ lie beside this folder, in an installation inside it. Without this,
# `python -m nnunet_difflung.dataset_conversion.…` would fail whenever the current folder is the checkout.
_beside = _os.path.dirname(_os.path.dirname(_os.path.abspath(__file__)))
if _os.path.isfile(_os.path.join(_beside, "setup.py")) and _os.path.isdir(_os.path.join(_beside, "trainers")):
    __path__.append(_beside)
