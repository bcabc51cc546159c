"""The commands show their help without importing the libraries that only a conversion needs."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import pytest

from nnunet_difflung.dataset_conversion.pipeline.options import add_shape_options

_HEAVY = ("torch", "nnunetv2", "SimpleITK", "pydicom", "matplotlib", "scipy", "skimage")
_PROGRAM = f"""
import contextlib, importlib, io, sys
module = importlib.import_module(sys.argv[1])
printed = io.StringIO()
with contextlib.redirect_stdout(printed):
    try:
        (getattr(module, "entry", None) or module.main)(["-h"])
    except SystemExit as stop:
        assert not stop.code, stop.code
assert "usage:" in printed.getvalue()
print(*[name for name in {_HEAVY} if name in sys.modules])
"""


@pytest.mark.parametrize(
    "module",
    [
        "convert",
        "Dataset800_ChestPhantom",
        "Dataset801_MedSegCOVID19",
        "Dataset802_MedSegCOVID19Slices",
        "Dataset803_COVID19CTSeg",
        "Dataset804_MosMedData",
        "Dataset805_HUGILD",
        "Dataset806_PleThora",
        "Dataset807_LIDCNodules",
    ],
)
def test_help_imports_no_heavy_library(module):
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, f"nnunet_difflung.dataset_conversion.{module}"],
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("crop", [True, False])
def test_help_names_cropping_only_where_a_converter_has_it(crop):
    p = argparse.ArgumentParser()
    add_shape_options(p, crop)
    assert ("--crop-lungs" in p.format_help()) == crop
