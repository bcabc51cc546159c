"""The compatibility check reads setup.py, pins what it says, and calls a failure a failure; nothing is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from nnunet_difflung.runtime.files import read_json
from tests.installation import compat
from tests.installation.compat import CannotCheck, Environment, counted, fingerprint, lowest, main, reason, requirements

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
