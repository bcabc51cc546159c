"""The container's recipe installs the locked versions and nothing else, and runs commands that exist, not as root."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nnunet_difflung.runtime.files import read_json
from tests.installation.compat import FOR_DEVELOPERS, SOURCES, requirements

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "container"
LOCKS = sorted((FOLDER / "lock").glob("*.txt"))
TESTED = read_json(ROOT / "docs" / "results" / "compat.json")


def instructions() -> list[tuple[str, str]]:
    """(name, arguments) of each instruction, on one line each."""
    text = re.sub(r"^#.*\n", "", (FOLDER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\s*\\\n\s*", " ", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line)]


def last_stage() -> list[tuple[str, str]]:
    """The instructions that make the image."""
    every = instructions()
    return every[max(i for i, (name, _) in enumerate(every) if name == "FROM") :]


def arguments(name: str) -> list[str]:
    """The arguments of all instructions of this name in the last stage."""
    return [rest for known, rest in last_stage() if known == name]


@pytest.fixture(scope="module")
def locked() -> dict[str, str]:
    """Name → version in the lock."""
    lines = [line for path in LOCKS for line in path.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines)
    versions = dict(line.split("==") for line in lines)
    assert len(versions) == len(lines), "a package has one version"
    return versions


def test_the_lock_has_all_that_setup_py_requires_within_its_bounds(locked):
    stated = [Requirement(line) for line in requirements(without=FOR_DEVELOPERS)]
    assert {"torch", "monai", "lungmask", "pydicom"} <= {requirement.name for requirement in stated}
    wrong = [str(one) for one in stated if not one.specifier.contains(locked.get(canonicalize_name(one.name), "0"))]
    assert not wrong, f"not in the lock, or out of bounds: {wrong}; make compat writes it anew"


def test_the_lock_is_what_make_compat_tested_last(locked):
    assert TESTED["newest"]["ok"]
    tested = {name: version for name, version in TESTED["newest"]["versions"].items() if name in locked}
    assert {"nnunetv2", "torch", "diffusers", "numpy", "lungmask"} <= set(tested)
    assert {name: locked[name] for name in tested} == tested


def test_the_base_image_has_the_python_of_that_test():
    minor = TESTED["meta"]["python"].rpartition(".")[0]
    assert ("ARG", f"BASE=python:{minor}-slim-bookworm") in instructions()
    assert all(f"with Python {minor}." in path.read_text() for path in LOCKS)


def test_only_locked_packages_and_our_wheel_are_installed():
    installs = re.findall(r"pip install ([^;&]+)", " && ".join(arguments("RUN")))
    files = []
    for install in installs:
        options, sources = re.fullmatch(
            r"--no-deps( --index-url \"\$CPU_INDEX\")?((?: -r /lock/\w+\.txt| /wheel/\*\.whl)+) ?", install
        ).groups()
        files += re.findall(r"/lock/(\w+\.txt)", sources) if not options else []
    assert sorted(files) == [path.name for path in LOCKS], "every file of the lock, once"
    assert sum("/wheel/*.whl" in install for install in installs) == 1
    assert "pip check" in arguments("RUN")[-2], "which says what the lock lacks"


def test_a_cpu_image_takes_torch_and_nothing_of_cuda_from_pytorchs_index():
    (step,) = [rest for rest in arguments("RUN") if "$CPU_INDEX" in rest]
    cpu = re.search(r"cpu\) (.+?) ;;", step)[1]
    assert "torch.txt" in cpu
    assert "cuda.txt" not in cpu
    assert {line.split("==")[0] for line in (FOLDER / "lock" / "torch.txt").read_text().splitlines()[1:]} == {
        "torch",
        "torchvision",
    }
    others = (FOLDER / "lock" / "other.txt").read_text()
    assert not re.search("^(torch|nvidia|cuda|triton)", others, re.MULTILINE)


def test_code_comes_after_torch_so_that_a_change_does_not_install_it_again():
    steps = [rest for name, rest in last_stage() if name in ("COPY", "RUN")]
    place = {
        name: next(i for i, rest in enumerate(steps) if name in rest) for name in ("torch.txt", "other.txt", "wheel")
    }
    assert place["torch.txt"] < place["other.txt"] < place["wheel"]
    assert not [rest for rest in arguments("COPY") if "docs/container/lock" not in rest and "--from=wheel" not in rest]


def test_what_is_copied_is_there_and_all_that_is_built_from():
    copied = {
        source
        for name, rest in instructions()
        if name == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert all((ROOT / source).exists() for source in copied)
    assert {source for source in copied if not source.startswith("docs/")} == {*SOURCES, "LICENSE"}
    lines = [line for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] != "#"]
    allowed = [line.removeprefix("!") for line in lines if line.startswith("!")]
    assert lines[0] == "*"
    assert all(any(fnmatch(source, line) or source.startswith(f"{line}/") for line in allowed) for source in copied)
    assert all(any(source.startswith(line) for source in copied) for line in allowed), "nothing else"


def test_it_runs_a_command_of_ours_and_not_as_root():
    names = [name for name, _ in last_stage()]
    assert arguments("USER") == ["1000:1000"]
    assert "RUN" not in names[names.index("USER") :]
    assert "ENTRYPOINT" not in names, "any command can be named"
    (command,) = map(json.loads, arguments("CMD"))
    assert f'"{command[0]}=nnunet_difflung.' in (ROOT / "setup.py").read_text()


def test_the_folders_of_nnunet_are_in_the_volume():
    environment = dict(part.split("=") for rest in arguments("ENV") for part in rest.split())
    (volume,) = arguments("VOLUME")  # one: a volume inside /data would hide what the user mounts there
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        assert environment[name] == f"{volume}/{name}"
        assert f" {environment[name]}" in arguments("RUN")[-1], "made for the user"
