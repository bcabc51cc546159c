"""Diff-Lung for nnU-Net v2: rare lung classes, painted by diffusion, without leaking a validation patient."""

__version__ = "0.1.0"
