"""What an installation leaves behind: trainers that nnU-Net finds by itself, and nothing after uninstalling."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "nnunet_difflung", "trainers", "dataset_conversion")
CLEAN = {key: value for key, value in os.environ.items() if key not in ("nnUNet_extTrainer", "PYTHONPATH")}
PROBE = (
    "import os, sys; "
    "print(os.environ.get('nnUNet_extTrainer'), {'torch', 'nnunetv2', 'nnunet_difflung'} & set(sys.modules))"
)


def call(*command, cwd, **environment):
    """Runs a command in a clean environment and returns its stdout; its stderr must say why it failed."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env={**CLEAN, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def build(source, kind, out):
    """Calls the hook that pip calls (PEP 517 and 660); returns the file it made."""
    out.mkdir()
    code = f"import setuptools.build_meta as backend; backend.build_{kind}({str(out)!r})"
    call(sys.executable, "-c", code, cwd=source)
    return next(out.iterdir())


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the checkout, so that building writes nothing into the original."""
    root = tmp_path_factory.mktemp("source") / "clone"
    root.mkdir()
    for name in SOURCES:
        if (CHECKOUT / name).is_dir():
            shutil.copytree(CHECKOUT / name, root / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif (CHECKOUT / name).is_file():
            shutil.copy(CHECKOUT / name, root / name)
    return root


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    return build(source, "wheel", tmp_path_factory.mktemp("wheels") / "plain")


class Environment:
    """A bare virtual environment; packages are installed into it with this Python's pip."""

    def __init__(self, folder):
        self.folder = folder
        call(sys.executable, "-m", "venv", "--without-pip", folder / "venv", cwd=folder)
        self.python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        self.before = self.files()

    def pip(self, *arguments):
        call(
            sys.executable,
            "-m",
            "pip",
            "--python",
            self.python,
            "--disable-pip-version-check",
            *arguments,
            cwd=self.folder,
        )

    def files(self):
        return {path for path in (self.folder / "venv").rglob("*") if not path.is_dir()}

    def start(self, code=PROBE, **environment):
        """Starts its interpreter and returns what ``code`` prints; nothing may appear on stderr."""
        done = subprocess.run(
            [self.python, "-c", code], cwd=self.folder, env={**CLEAN, **environment}, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.strip()


@pytest.fixture(params=["plain", "editable"])
def installed(request, source, tmp_path):
    """(environment with the package, folder that nnU-Net has to search)."""
    environment = Environment(tmp_path)
    if request.param == "plain":
        environment.pip("install", "--no-deps", "--no-index", request.getfixturevalue("wheel"))
        root = next((tmp_path / "venv").rglob("site-packages")) / "nnunet_difflung"
    else:
        environment.pip("install", "--no-deps", "--no-index", build(source, "editable", tmp_path / "out"))
        root = source / "nnunet_difflung"
    return environment, root / "nnunet_ext"


def test_variable_is_there_at_start_and_nothing_is_imported_for_it(installed):
    environment, shim = installed
    assert environment.start() == f"{shim} set()"
    assert [path.name for path in shim.glob("*.py") if path.name != "__init__.py"] == ["nnunet_difflung_trainers.py"]


def test_users_folders_stay_first_and_ours_comes_once(installed):
    environment, shim = installed
    both = os.pathsep.join(["/my/trainers", str(shim)])
    assert environment.start(nnUNet_extTrainer="/my/trainers") == f"{both} set()"
    assert environment.start(nnUNet_extTrainer=both) == f"{both} set()"  # as a child process inherits it


def test_subpackages_are_found_from_any_folder(installed, source):
    environment, _ = installed
    code = (
        "import os; os.chdir(%r); import importlib.util as u; "
        "print(all(u.find_spec('nnunet_difflung.' + n) for n in ('trainers', 'dataset_conversion', 'nnunet_ext')))"
    )
    for folder in (environment.folder, source):  # a clone as current folder hides the installed package
        assert environment.start(f"import sys; sys.path.insert(0, {str(folder)!r}); " + code % str(folder)) == "True"


def test_uninstalling_leaves_nothing(installed):
    environment, _ = installed
    assert environment.files() != environment.before
    environment.pip("uninstall", "--yes", "nnunet_difflung")
    assert environment.files() == environment.before
    assert not list((environment.folder / "venv").rglob("*difflung*"))
    assert environment.start() == "None set()"


def test_interpreter_starts_silently_when_the_package_is_half_gone(source, tmp_path):
    environment = Environment(tmp_path)
    clone = tmp_path / "clone"
    shutil.copytree(source, clone)
    environment.pip("install", "--no-deps", "--no-index", build(clone, "editable", tmp_path / "out"))
    shutil.rmtree(clone)
    assert environment.start() == "None set()"


def test_wheel_holds_only_the_package_and_its_pth(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert top == {"nnunet_difflung", "nnunet_difflung.pth", wheel.name.split("-py3")[0] + ".dist-info"}
    for module in ("trainers/lookahead.py", "dataset_conversion/__init__.py", "nnunet_ext/nnunet_difflung_trainers.py"):
        assert f"nnunet_difflung/{module}" in names


def test_wheel_from_the_sdist_is_the_same(source, wheel, tmp_path):
    with tarfile.open(build(source, "sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path)
    unpacked = next(path for path in tmp_path.iterdir() if path.name.startswith("nnunet_difflung-"))
    again = build(unpacked, "wheel", tmp_path / "wheel")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())
