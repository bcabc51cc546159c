"""Runs the tests with the lowest and the newest versions that setup.py allows, each in an environment of its own.

    python -m tests.compat lowest newest -o docs/results/compat.json

An environment takes about 7 GB and some minutes; ``--keep`` leaves them in the folder given with ``--at``.
"""
from __future__ import annotations

import argparse
import datetime
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from nnunet_difflung.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
ONLY_LOWEST = {"numpy": "<2"}  # torch before 2.3 was built for numpy 1
SLOW = ("tests/faults", "tests/test_processes.py", "tests/test_packaging.py", "tests/test_demo.py")


def bounds() -> dict[str, str]:
    """Package → lowest version, from install_requires in setup.py."""
    text = (ROOT / "setup.py").read_text()
    part = text[text.index("install_requires"):text.index("extras_require")]
    return dict(re.findall(r'"([A-Za-z0-9_-]+)>=([0-9.]+)"', part))


def wanted(name: str) -> list[str]:
    """Requirements of one set of versions."""
    if name == "newest":
        return []
    exact = [f"{package}=={version}" for package, version in bounds().items()
             if package in ("nnunetv2", "torch", "diffusers", "accelerate")]
    return exact + [f"{package}{limit}" for package, limit in ONLY_LOWEST.items()]


def check(name: str, folder: Path) -> dict:
    """Makes an environment, runs the tests, and returns versions and result."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, f"{ROOT}[test]", *wanted(name)], check=True, cwd=folder)
    listed = subprocess.run([str(folder / "bin" / "python"), "-m", "pip", "list", "--format=freeze"], check=True,
                            capture_output=True, text=True).stdout
    versions = dict(line.split("==", 1) for line in listed.splitlines() if "==" in line)
    tests = subprocess.run([str(folder / "bin" / "python"), "-m", "pytest", "-q", "--tb=short",
                            *(f"--ignore={path}" for path in SLOW)], cwd=ROOT, capture_output=True, text=True)
    print(tests.stdout[-6000:])
    return {"versions": {package: versions.get(package) for package in sorted(bounds())},
            "passed": tests.returncode == 0, "summary": tests.stdout.strip().splitlines()[-1:]}


def main() -> int:
    """Entry of the command line; exit code 1 where a test failed."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("sets", nargs="*", default=["lowest", "newest"], choices=["lowest", "newest"], help="which versions")
    p.add_argument("--at", type=Path, help="folder for the environments (default: a temporary one)")
    p.add_argument("--keep", action="store_true", help="leave the environments there")
    p.add_argument("-o", type=Path, metavar="FILE.json", help="result, beside that of the other set")
    o = p.parse_args()
    place = o.at or Path(tempfile.mkdtemp())
    place.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in o.sets:
        row = check(name, place / name)
        failed |= not row["passed"]
        if o.o:
            known = read_json(o.o) if o.o.is_file() else {}
            write_json(o.o, {**known, name: {**row, "date": datetime.date.today().isoformat(),
                                             "python": platform.python_version()}})
        if not o.keep:
            shutil.rmtree(place / name)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
