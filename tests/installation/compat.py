"""Installs the lowest and the newest versions that setup.py allows, and runs in each what depends on them.

    python -m tests.installation.compat -o .compat --result docs/results/compat.json --lock docs/container/lock

"lowest" is every requirement at exactly its stated lower bound, the rest as pip resolves it; "newest" is whatever pip
finds today. Each is a virtual environment of its own with the installed project, where a sample of the tests runs
beside no source tree. An environment is kept and found again until the requirements change; remove the folder to have
it made anew. Needs pip's package index, and about 13 GB of disk. Where the newest versions pass, ``--lock`` writes down
all that the package and its optional parts need of them, for the container of docs/container.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import setuptools  # noqa: F401  brings distutils to a Python without it
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from nnunet_difflung.runtime.files import write_bytes, write_json

CHECKOUT = Path(__file__).resolve().parents[2]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "nnunet_difflung", "trainers", "dataset_conversion")
WHICH = ("lowest", "newest")
FOR_DEVELOPERS = ("lint", "test")
# a CPU-only torch comes from another index, and torchvision with it
TORCH = ("torch", "torchvision")
LIST_PACKAGES = (
    "import json; from importlib.metadata import distributions as d; "
    "print(json.dumps([[x.name, x.version, x.requires or []] for x in d()]))"
)
Installed = dict[str, tuple[str, list[str]]]  # canonical name: version, requirements
# what is imported of each library: training, resume, every sampler; trainers; GANs; metrics; readers; DICOM; and the
# command from start to end, killed in between, in two processes
SAMPLE = (
    "generator/test_generator.py",
    "trainers/test_trainers.py",
    "generator/test_gan.py",
    "trainers/test_lookahead.py",
    "lesions/test_texture.py",
    "comparison/test_compare.py",
    "dataset/test_image_files.py",
    "lesions/test_masks.py",
    "dataset_conversion/test_conversion_dicom.py",
    "injection/test_inject.py::test_inject_then_remove_restores_every_byte",
    "commands/test_augment.py::test_composite_changes_only_what_it_says",
    "commands/test_augment.py::test_full_paints_the_whole_isolated_slice_but_what_is_to_be_ignored",
    "commands/test_augment.py::test_the_fingerprint_is_that_of_the_real_cases",
    "commands/test_augment.py::test_interrupted_in_training_and_in_painting_then_the_same_result[15-143]",
    "runtime/test_processes.py::test_two_processes_do_what_one_does",
)
NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeout|ProxyError|Max retries exceeded|"
    r"[Cc]onnection broken|Connection to \S+ timed out"
)


class CannotCheck(Exception):
    """Nothing can be said of an environment, and why, in one line."""


def requirements(setup: Path = CHECKOUT / "setup.py", without: tuple[str, ...] = ("lint",)) -> list[str]:
    """What a setup.py requires, with all extras but those of ``without``; nothing is built for it."""
    from distutils.core import run_setup

    stated = run_setup(str(setup), stop_after="init")
    extras = [lines for name, lines in stated.extras_require.items() if name not in without]
    return [*stated.install_requires, *(line for lines in extras for line in lines)]


def lowest(stated: list[str]) -> list[str]:
    """``name==bound`` of each requirement that has a lower bound; the highest bound where several are stated."""
    bounds: dict[str, Version] = {}
    for requirement in map(Requirement, stated):
        name = canonicalize_name(requirement.name)
        for part in requirement.specifier:
            if part.operator in (">=", "==", "~="):
                bounds[name] = max(Version(part.version), bounds.get(name, Version("0")))
    return sorted(f"{name}=={bound}" for name, bound in bounds.items())


def needed(installed: Installed, stated: list[str], torch_with_cuda: bool = True) -> set[str]:
    """Names of all packages that requirements need, directly or not.

    Args:
        installed: The packages of the environment that holds them; this Python is the same as its Python.
        stated: The requirements.
        torch_with_cuda: Whether torch needs what its builds for Linux bring CUDA with.
    """
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(line) for line in stated]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        elsewhere = {"platform_system": ""} if name == "torch" and not torch_with_cuda else {}
        for extra in {"", *requirement.extras} - {known for other, known in found if other == name}:
            found.add((name, extra))
            for line in installed[name][1]:
                marker = Requirement(line).marker
                if marker is None or marker.evaluate({"extra": extra, **elsewhere}):
                    waiting.append(Requirement(line))
    return {name for name, _ in found}


def lock(installed: Installed, stated: list[str]) -> dict[str, list[str]]:
    """``name==version`` of all that requirements need, by file: ``torch``, ``cuda`` (for its CUDA alone), ``other``."""
    without_cuda = needed(installed, stated, torch_with_cuda=False)
    files: dict[str, list[str]] = {"torch": [], "cuda": [], "other": []}
    for name in sorted(needed(installed, stated)):
        file = "torch" if name in TORCH else "other" if name in without_cuda else "cuda"
        files[file].append(f"{name}=={Version(installed[name][0]).public}")
    return files


def write_lock(folder: Path, files: dict[str, list[str]]) -> None:
    """Writes the files of ``lock`` for pip, ``NAME.txt`` each."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        text = [
            f"# written by make compat, which tested these versions with Python {platform.python_version()}",
            *lines,
        ]
        write_bytes(folder / f"{name}.txt", ("\n".join(text) + "\n").encode())


def fingerprint(which: str, stated: list[str]) -> str:
    """Changes with whatever an environment is made from."""
    return hashlib.sha256(json.dumps([which, platform.python_version(), sorted(stated)]).encode()).hexdigest()


def reason(said: str) -> str:
    """One line for what pip said when it failed."""
    words = [line.strip() for line in said.splitlines() if line.strip()] or ["pip said nothing"]
    lines = [line.removeprefix("ERROR: ") for line in words if line.startswith("ERROR: ")] or words[-1:]
    if NO_NETWORK.search(said):
        return f"no network, pip reached no package index ({lines[-1]})"
    conflict = [line for line in words if " depends on " in line or "requested" in line]
    return "; ".join([lines[0] if conflict else lines[-1], *conflict[:4]])


class Environment:
    """A virtual environment with the project in it, and a folder with nothing but the tests."""

    def __init__(self, folder: Path, which: str, stated: list[str]) -> None:
        """Names its files; makes nothing yet."""
        self.folder, self.which, self.stated = folder / which, which, stated
        self.python = self.folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        self.finished = self.folder / "finished"

    def call(self, *arguments: str) -> subprocess.CompletedProcess:
        """Runs its Python beside the tests, without the variables of whoever called us."""
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("nnUNet_")}
        return subprocess.run(
            [str(self.python), *arguments],
            cwd=self.folder / "work",
            text=True,
            env=kept | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def pip(self, *arguments: str) -> None:
        """Raises: CannotCheck: with pip's reason in a line."""
        done = self.call("-m", "pip", "--disable-pip-version-check", "install", *arguments)
        (self.folder / "pip.log").write_text(done.stdout)
        if done.returncode:
            raise CannotCheck(reason(done.stdout))

    def prepare(self) -> None:
        """Makes what is missing of the environment, and installs the project as it is now."""
        source, work, mark = self.folder / "source", self.folder / "work", fingerprint(self.which, self.stated)
        known = self.finished.is_file() and self.finished.read_text() == mark
        for old in (source, work) if known else (self.folder,):
            shutil.rmtree(old, ignore_errors=True)
        ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
        source.mkdir(parents=True)
        for name in SOURCES:
            if (CHECKOUT / name).is_dir():
                shutil.copytree(CHECKOUT / name, source / name, symlinks=True, ignore=ignored)
            else:
                shutil.copy(CHECKOUT / name, source / name)
        shutil.copytree(CHECKOUT / "tests", work / "tests", ignore=ignored)
        print(f"{self.which}: {'found in' if known else 'installing into'} {self.folder}", flush=True)
        if not known:
            subprocess.run([sys.executable, "-m", "venv", str(self.folder / "venv")], check=True)
            pins = self.folder / "pins.txt"
            pins.write_text("\n".join(lowest(self.stated)) + "\n")
            how = ["-c", str(pins)] if self.which == "lowest" else ["-U", "--upgrade-strategy", "eager"]
            self.pip(*how, *self.stated, str(source))
        self.pip("--no-deps", "--force-reinstall", str(source))
        self.finished.write_text(mark)
        where = self.call("-c", "import nnunet_difflung; print(nnunet_difflung.__file__)").stdout.strip()
        if not where.startswith(str(self.folder / "venv")):
            raise CannotCheck(f"not the installed package would be tested: {where}")

    def installed(self) -> Installed:
        """All its packages; asked of Python, since pip's lists leave out what Python has itself, such as argparse."""
        rows = json.loads(self.call("-c", LIST_PACKAGES).stdout)
        return {canonicalize_name(name): (version, requires) for name, version, requires in rows}

    def versions(self) -> dict[str, str]:
        """Versions of what setup.py names."""
        installed, names = self.installed(), {canonicalize_name(Requirement(line).name) for line in self.stated}
        return {name: installed[name][0] for name in sorted(names & set(installed))}

    def test(self, sample: tuple[str, ...]) -> dict:
        """Runs these tests; what they said is in ``tests.log`` of its folder."""
        report, begun = self.folder / "tests.xml", time.monotonic()
        report.unlink(missing_ok=True)
        done = self.call(
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            *(f"tests/{name}" for name in sample),
        )
        (self.folder / "tests.log").write_text(done.stdout)
        seconds = round(time.monotonic() - begun)
        return {"versions": self.versions(), **counted(report, done.returncode), "seconds": seconds}


def counted(report: Path, code: int) -> dict:
    """How pytest's XML report and exit code read: ``tests``, names of the ``failing`` ones, and ``ok``."""
    failing, skipped, number = [], 0, 0
    if report.is_file():
        for case in ElementTree.parse(report).iter("testcase"):
            number += 1
            skipped += case.find("skipped") is not None
            if case.find("failure") is not None or case.find("error") is not None:
                failing.append(f"{case.get('classname')}::{case.get('name')}".lstrip(":"))
    tests = {"passed": number - len(failing) - skipped, "failed": len(failing), "skipped": skipped}
    if code and not failing:
        failing.append(f"pytest ended with exit code {code}")
    return {"tests": tests, "failing": failing, "ok": not failing and tests["passed"] > 0}


def main(arguments: list[str] | None = None) -> int:
    """Entry of the command line; exit code 1 where a test fails, 2 where an environment cannot be made."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--which", nargs="+", choices=WHICH, default=WHICH, help="by default both")
    p.add_argument("--sample", nargs="+", default=SAMPLE, metavar="TEST", help="files or tests below tests/")
    p.add_argument("-o", type=Path, default=Path(".compat"), metavar="FOLDER", help="environments (default .compat)")
    p.add_argument("--result", type=Path, metavar="FILE.json", help="what this run found, written anew")
    p.add_argument("--lock", type=Path, metavar="FOLDER", help="what was found to pass as newest, for the container")
    o = p.parse_args(arguments)
    if o.lock and ("newest" not in o.which or o.sample != SAMPLE):
        p.error("--lock is for the newest versions that pass all tests: without --sample, and with newest in --which")
    stated, rows, sample = requirements(), {}, "" if o.sample == SAMPLE else f" --sample {' '.join(o.sample)}"
    for which in o.which:
        environment = Environment(o.o.resolve(), which, stated)
        try:
            environment.prepare()
        except CannotCheck as error:
            print(f"{which}: {error}", file=sys.stderr)
            return 2
        print(f"{which}: testing, takes about 5 minutes", flush=True)
        row = rows[which] = environment.test(tuple(o.sample))
        print(f"{which}: {row['tests']} in {row['seconds']} s; {row['versions']}", flush=True)
        if o.lock and which == "newest" and row["ok"]:
            write_lock(o.lock, lock(environment.installed(), requirements(without=FOR_DEVELOPERS)))
        for name in row["failing"]:
            print(f"{which}: FAILED {name}, see {environment.folder / 'tests.log'}", flush=True)
        if o.result:
            meta = {
                "command": f"python -m tests.installation.compat --which {' '.join(o.which)}{sample}",
                "date": datetime.date.today().isoformat(),
                "python": platform.python_version(),
                "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
            }
            write_json(o.result, {"meta": meta, **rows})
    return int(not all(row["ok"] for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
