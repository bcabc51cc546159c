"""Installs nnunet_difflung, and makes its trainers visible to nnU-Net without a variable to set or a file to copy.

nnU-Net looks for trainers in its own package and in the folders of ``nnUNet_extTrainer``. A ``.pth`` file in
site-packages appends this package's ``nnunet_ext`` folder to that variable whenever the interpreter starts. Both
ways of installing have to write it: a wheel through ``build_py``, ``pip install -e`` through ``editable_wheel``.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

HERE = Path(__file__).resolve().parent
PTH_NAME = "nnunet_difflung.pth"

# Runs at every interpreter start, so it only looks where the package lies and imports none of it. The user's own
# folders stay first, and whatever goes wrong (package half removed, odd import hooks) must not reach the user.
AT_START = """
try:
    import os
    from importlib.util import find_spec
    folder = os.path.join(find_spec('nnunet_difflung').submodule_search_locations[0], 'nnunet_ext')
    known = [part for part in os.environ.get('nnUNet_extTrainer', '').split(os.pathsep) if part]
    if folder not in known and os.path.isdir(folder):
        os.environ['nnUNet_extTrainer'] = os.pathsep.join(known + [folder])
except Exception:
    pass
"""
PTH_CONTENT = f"import sys; exec({AT_START!r}, {{}})\n"  # site runs a line of a .pth only if it starts with "import"


class BuildWithPth(build_py):
    """``build_py`` that also puts the .pth at the root of the build, next to the packages."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self._pth().parent.mkdir(parents=True, exist_ok=True)
            self._pth().write_text(PTH_CONTENT)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        ours = [] if self.editable_mode else [str(self._pth())]
        return super().get_outputs(include_bytecode) + ours

    def _pth(self) -> Path:
        return Path(self.build_lib, PTH_NAME)


class StrategyWithPth:
    """Wraps setuptools' way of filling an editable wheel, and adds the .pth to what it wrote."""

    def __init__(self, strategy) -> None:
        self.strategy = strategy

    def __call__(self, wheel, files, mapping) -> None:
        self.strategy(wheel, files, mapping)
        wheel.writestr(PTH_NAME, PTH_CONTENT)

    def __enter__(self) -> StrategyWithPth:
        self.strategy.__enter__()
        return self

    def __exit__(self, *error):
        return self.strategy.__exit__(*error)


class EditableWithPth(editable_wheel):
    """``editable_wheel`` whose wheel holds the .pth; fails instead of leaving nnU-Net without our trainers."""

    def _select_strategy(self, name, tag, build_lib):
        return StrategyWithPth(super()._select_strategy(name, tag, build_lib))

    def run(self) -> None:
        super().run()
        for wheel in Path(self.dist_dir).glob("nnunet_difflung*.whl"):
            if PTH_NAME not in zipfile.ZipFile(wheel).namelist():
                raise RuntimeError(
                    f"this version of setuptools left {PTH_NAME} out of the editable wheel; use a plain 'pip install .'"
                )


def version() -> str:
    """Version string in ``nnunet_difflung/__init__.py``, read without importing the package."""
    text = (HERE / "nnunet_difflung" / "__init__.py").read_text()
    return re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE).group(1)


def long_description() -> str:
    """The README, or nothing while there is none."""
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


setup(
    name="nnunet_difflung",
    version=version(),
    description="Diff-Lung for nnU-Net v2: fold-locked synthetic CT for rare lung classes",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    author="The nnunet_difflung developers",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["nnU-Net", "diffusion model", "data augmentation", "chest CT", "class imbalance", "segmentation"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Healthcare Industry",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    # explicit, so that nothing called "trainers" or "tests" lands in site-packages
    packages=[
        "nnunet_difflung",
        "nnunet_difflung.api",
        "nnunet_difflung.audit",
        "nnunet_difflung.commands",
        "nnunet_difflung.comparison",
        "nnunet_difflung.dataset",
        "nnunet_difflung.dataset_conversion",
        "nnunet_difflung.dataset_conversion.archive",
        "nnunet_difflung.dataset_conversion.dicom",
        "nnunet_difflung.dataset_conversion.files",
        "nnunet_difflung.dataset_conversion.imaging",
        "nnunet_difflung.dataset_conversion.output",
        "nnunet_difflung.dataset_conversion.phantom",
        "nnunet_difflung.dataset_conversion.pipeline",
        "nnunet_difflung.dataset_conversion.public",
        "nnunet_difflung.demonstration",
        "nnunet_difflung.evaluation",
        "nnunet_difflung.export",
        "nnunet_difflung.generator",
        "nnunet_difflung.generator.families",
        "nnunet_difflung.injection",
        "nnunet_difflung.judging",
        "nnunet_difflung.lesions",
        "nnunet_difflung.meaning",
        "nnunet_difflung.nnunet_ext",
        "nnunet_difflung.pages",
        "nnunet_difflung.painting",
        "nnunet_difflung.patients",
        "nnunet_difflung.pipeline",
        "nnunet_difflung.preparing",
        "nnunet_difflung.report",
        "nnunet_difflung.runtime",
        "nnunet_difflung.segmenter",
        "nnunet_difflung.telling",
        "nnunet_difflung.trainers",
    ],
    package_data={"nnunet_difflung": ["py.typed"], "nnunet_difflung.pages": ["page.html", "page.css", "page.js"]},
    package_dir={
        "nnunet_difflung": "nnunet_difflung",
        "nnunet_difflung.trainers": "trainers",
        "nnunet_difflung.dataset_conversion": "dataset_conversion",
    },
    install_requires=[
        "nnunetv2>=2.8",  # the framework; 2.8.0 is the first to read nnUNet_extTrainer
        "torch>=2.1.2",  # networks and training, the lower bound is nnU-Net's
        "diffusers>=0.32.1",  # UNet2DModel, schedulers, EMAModel; UniPC fails in 0.31, 0.32.0 with torch 2.1
        "accelerate>=0.30",  # device, precision and processes of the generator's training
        "batchgenerators>=0.25.1",  # the loaders that nnU-Net's trainers, and so ours, run on
        "SimpleITK>=2.2.1",  # writes images with their spacing, origin and direction
        "numpy>=1.26",  # arrays; the lower bound is that of nnU-Net's blosc2
        "scipy>=1.10",  # connected components, morphology, Wasserstein distance; 1.10 allows numpy 1.26
        "scikit-image>=0.20",  # threshold of the body class, PNG files; 0.20 is the first for Python 3.11
        "acvl-utils>=0.2.6",  # largest component of the body mask
        "safetensors>=0.4",  # generators are stored without pickles
        "tqdm",  # progress bars
        "matplotlib",  # progress.png, previews
        "jinja2>=3.1",  # HTML reports, with all text escaped; torch depends on it
        "pillow>=9.1",  # PNG files inside reports; matplotlib depends on it
        "pyyaml",  # mapping files of difflung_convert
    ],
    extras_require={
        "gan": ["monai>=1.4"],  # networks of the comparison methods pix2pix and spade; 1.4 is the first with them
        "metrics": ["monai>=1.4"],  # surface distances of difflung_compare --surface
        "convert": [
            "pydicom>=3.0.1",  # DICOM headers, RTSTRUCT contours and DICOM-SEG
            "pyjpegls>=1.2",  # DICOM-SEG that is compressed with JPEG-LS
        ],
        "lungmask": ["lungmask>=0.2.20"],  # lung: lungmask, a trained lung mask instead of thresholds
        "lint": [
            "ruff>=0.17,<0.18",  # style and format; another version may format otherwise
            "mypy>=2,<3",  # types
        ],
        "test": [
            "pytest>=7",
            "pytest-xdist>=3.7",
            "pytest-timeout>=2.2",  # a test that hangs fails and shows where
            "hypothesis",
            "import-linter>=2.15",  # the contract between rooms
            "setuptools>=64",
            "wheel",
            "monai>=1.4",  # the tests of both GANs
            "pydicom>=3.0.1",
            "highdicom>=0.25",
        ],  # the tests of difflung_convert
    },
    entry_points={
        "console_scripts": [
            "difflung_augment=nnunet_difflung.commands.augment:entry",
            "difflung_turing=nnunet_difflung.commands.turing:entry",
            "difflung_report=nnunet_difflung.commands.report:entry",
            "difflung_remove=nnunet_difflung.commands.remove:entry",
            "difflung_audit=nnunet_difflung.commands.audit:entry",
            "difflung_demo=nnunet_difflung.commands.demo:entry",
            "difflung_evaluate=nnunet_difflung.commands.evaluate:entry",
            "difflung_compare=nnunet_difflung.commands.compare:entry",
            "difflung_export=nnunet_difflung.commands.export:entry",
            "difflung_convert=nnunet_difflung.dataset_conversion.convert:entry",
        ]
    },
    cmdclass={"build_py": BuildWithPth, "editable_wheel": EditableWithPth},
)
