"""The compatibility check reads setup.py, pins what it says, and calls a failure a failure; nothing is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from nnunet_difflung.runtime.files import read_json
from tests.installation import compat
from tests.installation.compat import (
    CannotCheck,
    Environment,
    counted,
    fingerprint,
    lock,
    lowest,
    main,
    reason,
    requirements,
)

REPORT = """<testsuites><testsuite errors="0" failures="1" skipped="1" tests="3">
<testcase classname="tests.test_gan" name="test_a" />
<testcase classname="tests.test_gan" name="test_b[1]">{}</testcase>
<testcase classname="tests.test_gan" name="test_c"><skipped message="no network" /></testcase>
</testsuite></testsuites>"""


def test_requirements_are_those_of_setup_py(tmp_path):
    found = requirements()
    assert {"nnunetv2", "torch", "diffusers", "accelerate", "monai", "highdicom", "pytest"} <= {
        Requirement(line).name for line in found
    }
    (tmp_path / "setup.py").write_text(
        "from setuptools import setup\nsetup(name='a', install_requires=['b>=1', 'c'],"
        "extras_require={'x': ['d>=2'], 'y': ['e']})\n"
    )
    assert requirements(tmp_path / "setup.py") == ["b>=1", "c", "d>=2", "e"]
    assert requirements(tmp_path / "setup.py", without=("x",)) == ["b>=1", "c", "e"]
    assert [path.name for path in tmp_path.iterdir()] == ["setup.py"]


def test_lowest_is_the_stated_bound_and_nothing_else_is_pinned():
    assert lowest(["torch!=2.9.*,>=2.1.2,<3", "tqdm", "scikit_image>=0.20", "SimpleITK>=2.2.1", "old<2"]) == [
        "scikit-image==0.20",
        "simpleitk==2.2.1",
        "torch==2.1.2",
    ]
    assert lowest(["monai>=1.9", "monai>=1.10", "monai>=1.4"]) == ["monai==1.10"], "one of several extras, as numbers"
    pins = lowest(requirements())
    assert "nnunetv2==2.8" in pins
    assert not any(pin.startswith(("tqdm", "ruff")) for pin in pins)


def test_an_environment_is_known_until_its_requirements_change():
    mark = fingerprint("lowest", ["a>=1", "b"])
    assert mark == fingerprint("lowest", ["b", "a>=1"])
    assert len({mark, fingerprint("lowest", ["a>=2", "b"]), fingerprint("newest", ["a>=1", "b"])}) == 3


INSTALLED = {
    "torch": ("2.1+cu130", ["nvidia-a[x]==1; platform_system == 'Linux'", "jinja2"]),
    "nvidia-a": ("1.0", ["nvidia-x; extra == 'x'", "unused; extra == 'y'", "numpy"]),
    "nvidia-x": ("3", ["nvidia-a"]),
    "numpy": ("2.0", []),
    "jinja2": ("3", ["colorama; platform_system == 'Windows'"]),
    "scikit-image": ("0.20", ["numpy", "torch; extra == 'gpu'"]),
    "torchvision": ("0.1", ["torch"]),
    "pytest": ("9", []),
}


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings CUDA on Linux alone")
def test_the_lock_holds_all_that_is_needed_with_cuda_apart():
    assert lock(INSTALLED, ["scikit_image[gpu]>=0.1", "torchvision", "numpy"]) == {
        "torch": ["torch==2.1", "torchvision==0.1"],
        "cuda": ["nvidia-a==1.0", "nvidia-x==3"],
        "other": ["jinja2==3", "numpy==2.0", "scikit-image==0.20"],
    }
    assert lock(INSTALLED, ["scikit-image"])["other"] == ["numpy==2.0", "scikit-image==0.20"]


def test_an_environment_lists_what_pip_hides(tmp_path):
    (tmp_path / "all" / "work").mkdir(parents=True)
    environment = Environment(tmp_path, "all", ["NumPy>=1", "no-such"])
    environment.python = Path(sys.executable)
    installed = environment.installed()
    assert "argparse" in installed, "unittest2 requires it, and pip check misses it"
    assert any(line.startswith("numpy") for line in installed["scipy"][1])
    assert environment.versions() == {"numpy": installed["numpy"][0]}


@pytest.mark.parametrize(
    ("inside", "failing"),
    [
        ("", []),
        ("<failure>no</failure>", ["tests.test_gan::test_b[1]"]),
        ("<error>no</error>", ["tests.test_gan::test_b[1]"]),
    ],
)
def test_failing_tests_are_counted_and_named(tmp_path, inside, failing):
    (tmp_path / "tests.xml").write_text(REPORT.format(inside))
    found = counted(tmp_path / "tests.xml", int(bool(failing)))
    assert found == {
        "tests": {"passed": 2 - len(failing), "failed": len(failing), "skipped": 1},
        "failing": failing,
        "ok": not failing,
    }


def test_a_crash_and_no_test_at_all_are_failures(tmp_path):
    assert counted(tmp_path / "missing.xml", -11)["failing"] == ["pytest ended with exit code -11"]
    (tmp_path / "tests.xml").write_text(REPORT.format(""))
    assert not counted(tmp_path / "tests.xml", 3)["ok"], "it crashed after its report"
    (tmp_path / "tests.xml").write_text("<testsuites><testsuite tests='0' /></testsuites>")
    assert not counted(tmp_path / "tests.xml", 0)["ok"]


def test_pips_failures_are_told_in_a_line():
    conflict = (
        "Collecting a\nERROR: Cannot install a and b because these versions conflict.\n\nThe conflict is "
        "caused by:\n    The user requested b==1\n    a 2 depends on b>=2\n\n"
        "ERROR: ResolutionImpossible: for help\n"
    )
    assert reason(conflict) == (
        "Cannot install a and b because these versions conflict.; The user requested b==1; a 2 depends on b>=2"
    )
    assert reason("ERROR: Could not find\nERROR: No matching distribution found for a==1\n") == (
        "No matching distribution found for a==1"
    )


def test_without_network_one_line_and_its_own_exit_code(tmp_path, monkeypatch, capfd):
    """The real pip, with an index at a port where nobody listens."""
    for variable, value in {
        "INDEX_URL": "http://127.0.0.1:9/simple",
        "EXTRA_INDEX_URL": "",
        "FIND_LINKS": "",
        "RETRIES": "1",
        "CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(f"PIP_{variable}", value)
    monkeypatch.setattr(compat, "requirements", lambda: ["nnunetv2>=2.8"])
    result = tmp_path / "compat.json"
    assert main(["--which", "lowest", "-o", str(tmp_path / "a"), "--result", str(result)]) == 2
    said = capfd.readouterr().err
    assert said.startswith("lowest: no network")
    assert said.count("\n") == 1
    assert not result.exists()
    assert not (tmp_path / "a" / "lowest" / "finished").exists(), "half an environment is not taken for one"


class Pretended(Environment):
    """An environment that is this Python, without pip; what it finds is ``found``."""

    found: dict[str, dict] = {}

    def prepare(self) -> None:
        if self.which not in self.found:
            raise CannotCheck("no such version")

    def test(self, sample: tuple[str, ...]) -> dict:
        return {"versions": {}, "seconds": 1, **self.found[self.which]}

    def installed(self) -> compat.Installed:
        return INSTALLED


def test_exit_code_and_result_say_what_failed(tmp_path, monkeypatch, capsys):
    good = {"tests": {"passed": 3, "failed": 0, "skipped": 0}, "failing": [], "ok": True}
    bad = {"tests": {"passed": 2, "failed": 1, "skipped": 0}, "failing": ["tests.test_gan::test_b"], "ok": False}
    monkeypatch.setattr(compat, "Environment", Pretended)
    monkeypatch.setattr(Pretended, "found", {"lowest": good, "newest": bad})
    result = tmp_path / "compat.json"
    assert main(["--which", "lowest", "-o", str(tmp_path)]) == 0
    assert not result.exists()
    assert main(["-o", str(tmp_path), "--result", str(result)]) == 1
    assert "newest: FAILED tests.test_gan::test_b" in capsys.readouterr().out
    found = read_json(result)
    assert found["lowest"]["ok"]
    assert not found["newest"]["ok"]
    assert found["meta"]["command"] == ("python -m tests.installation.compat --which lowest newest"), (
        "no folder of this machine"
    )
    monkeypatch.setattr(Pretended, "found", {})
    assert main(["-o", str(tmp_path)]) == 2
    assert "lowest: no such version" in capsys.readouterr().err


@pytest.mark.parametrize("ok", [True, False])
def test_only_versions_that_pass_are_locked(tmp_path, monkeypatch, ok):
    row = {"tests": {"passed": 3, "failed": int(not ok), "skipped": 0}, "failing": [], "ok": ok}
    monkeypatch.setattr(compat, "Environment", Pretended)
    monkeypatch.setattr(compat, "requirements", lambda **_: ["numpy>=1"])
    monkeypatch.setattr(Pretended, "found", {"lowest": row | {"ok": True}, "newest": row})
    assert main(["-o", str(tmp_path), "--lock", str(tmp_path / "lock")]) == int(not ok)
    files = sorted((tmp_path / "lock").glob("*")) if ok else []
    assert [path.name for path in files] == (["cuda.txt", "other.txt", "torch.txt"] if ok else [])
    assert (tmp_path / "lock").exists() == ok
    assert not ok or files[1].read_text().splitlines()[1:] == ["numpy==2.0"]


@pytest.mark.parametrize("arguments", [["--which", "lowest"], ["--sample", "lesions/test_masks.py"]])
def test_what_was_not_tested_is_not_locked(tmp_path, capsys, arguments):
    with pytest.raises(SystemExit):
        main([*arguments, "-o", str(tmp_path), "--lock", str(tmp_path / "lock")])
    assert "--lock is for the newest versions" in capsys.readouterr().err


def test_the_sample_is_there_and_the_help_says_what_it_does():
    tests = Path(__file__).parents[1]
    for name, _, test in (entry.partition("::") for entry in compat.SAMPLE):
        text = (tests / name).read_text()
        assert f"def {test.split('[')[0]}(" in text if test else "def test_" in text, name
    done = subprocess.run(
        [sys.executable, "-m", "tests.installation.compat", "-h"], cwd=tests.parent, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "lowest" in done.stdout
