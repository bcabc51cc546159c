"""Which files commands touch: none outside the dataset, and none at all where they say so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.injection.inject import inject
from tests.support.archives import write_volumes
from tests.support.commands import OPTIONS
from tests.support.modes import open_to, set_modes
from tests.support.snapshot import Entry, changed, snapshot
from tests.support.staging import plan_like_nnunet, stage_cases
from tests.support.tiny import make_dataset, set_paths, write_fingerprint

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = ("home", "cwd", "tmp")
OF_LIBRARIES = ("/tmp/torchinductor_", "/home/.cache", "/home/.config")
REMEMBERED = {".contents.json", ".preprocessed.json", ".images.json"}  # in DiffLung__cache: hashes of unchanged files
FAST = ["--preset", "fast", "-device", "cpu"]


class World:
    """A computer with nnU-Net's folders, a home, a working directory and a temporary folder."""

    def __init__(self, folder: Path, monkeypatch):
        self.top = folder
        self.nnunet = set_paths(folder / "nnunet", monkeypatch)
        for name in OUTSIDE:
            (folder / name).mkdir()

    def outside(self) -> dict[str, Entry]:
        """What is in the other folders, without what torch and matplotlib keep there for themselves."""
        entries = snapshot(*(self.top / name for name in OUTSIDE))
        return {path: entry for path, entry in entries.items() if not any(name in path for name in OF_LIBRARIES)}

    def run(self, module: str, *arguments: str, code: int = 0) -> str:
        """Runs a command as a process of its own; returns what it prints."""
        home, cwd, scratch = (self.top / name for name in OUTSIDE)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "HF_", "TORCH"))}
        environment |= {"HOME": str(home), "TMPDIR": str(scratch), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-m", f"nnunet_difflung.{module}", *arguments],
            env=environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    return World(tmp_path, monkeypatch)


COMMANDS = {
    "augment --dry-run": ("commands.augment", "-d", "801", "-f", "0", "--method", "copy_paste", "--dry-run", *FAST),
    "augment --dry-run, other cases": ("commands.augment", "-d", "801", "-f", "1", "--dry-run", *FAST),
    "remove --dry-run": ("commands.remove", "-d", "801", "--dry-run", "--generators"),
    "audit": ("commands.audit", "-d", "801"),
    "audit --deep --json": ("commands.audit", "-d", "801", "--deep", "--json"),
    "audit --images": ("commands.audit", "-d", "801", "--images"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_that_only_look_change_no_file_name_mode_or_time(world, command):
    make_dataset(world.nnunet[0], patients=4, slices=2, size=32, folds=2)
    raw = open_raw_dataset("801")
    inject(raw, *stage_cases(raw))
    plan_like_nnunet(raw, fingerprint=False)
    (raw.preprocessed / "dataset_fingerprint.json").write_text('{"spacings": [1, 1, 1, 1, 1, 1, 1, 1]}')
    before, outside = snapshot(*world.nnunet, folder_times=True), world.outside()
    world.run(*COMMANDS[command])
    assert world.outside() == outside
    touched = changed(before, snapshot(*world.nnunet, folder_times=True))
    assert touched == []


def test_what_an_audit_remembers_lies_in_the_cache_and_nowhere_else(world, monkeypatch):
    from nnunet_difflung.audit.audit import audit_table
    from nnunet_difflung.dataset import contents

    mine = make_dataset(world.nnunet[0], patients=4, slices=2, size=16, folds=2)
    for path in mine.rglob("*"):
        os.utime(path, (1, 1))
    monkeypatch.setattr(contents, "_WORTH_FILES", 0)
    monkeypatch.setattr(contents, "_SETTLED", -(2**62))
    inject(raw := open_raw_dataset("801"), *stage_cases(raw))
    before = snapshot(*world.nnunet)
    audit_table("Dataset801_Tiny")
    touched = [Path(path) for path in changed(before, snapshot(*world.nnunet))]
    assert {path.name for path in touched if path.is_file()} <= REMEMBERED
    cache = world.nnunet[2] / "Dataset801_Tiny" / "DiffLung__cache"
    assert all(path.parent == cache or cache.is_relative_to(path) for path in touched)


def test_a_folder_that_cannot_be_written_is_no_fault_for_commands_that_only_look(folders, monkeypatch):
    from nnunet_difflung.audit.audit import audit_table
    from nnunet_difflung.dataset import contents
    from nnunet_difflung.runtime import files

    make_dataset(folders[0], patients=4, slices=2, size=16, folds=2)
    inject(raw := open_raw_dataset("801"), *stage_cases(raw))

    def refuse(path: Path) -> Path:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(contents, "_WORTH_FILES", 0)
    monkeypatch.setattr(files, "_new_file", refuse)
    assert audit_table("Dataset801_Tiny")["problems"] == []


@pytest.mark.parametrize("method", ["copy_paste", "cbmat"])
def test_augmenting_and_removing_leave_a_dataset_and_the_computer_as_they_were(world, method):
    mine = make_dataset(world.nnunet[0])
    write_fingerprint(world.nnunet[1])
    set_modes(mine, 0o640, 0o750)
    os.chmod(mine / "dataset.json", 0o444)
    os.link(mine / "dataset.json", mine / "copy.json")
    (mine / "notes").mkdir(mode=0o700)
    (mine / "notes" / "thesis.docx").write_text("precious")
    (mine / "imagesTr" / ".hidden").symlink_to("nowhere")
    (mine / "empty").mkdir()
    before, outside = snapshot(*world.nnunet), world.outside()
    world.run("commands.augment", *OPTIONS, "-f", "0", "--method", method)
    assert len(list(mine.glob("imagesTr/difflung_*"))) >= 1
    kept = {"difflung_patients.json"}
    if method == "cbmat":
        augmented = snapshot(*world.nnunet[:2], folder_times=True)
        options = ["-f", "0", "--methods", method, "--samples", "2", "--steps", "2", "--max-slices", "2", *FAST]
        world.run("commands.evaluate", "-d", "801", *options)
        assert changed(augmented, snapshot(*world.nnunet[:2], folder_times=True)) == []
        kept |= {"table1.json", "table1.md", "table1.png", "table1.html"}
    assert open_to(world.nnunet[2], 0o004) == []
    assert changed(outside, world.outside()) == []
    world.run("commands.remove", "-d", "801", "--generators")
    patients = str(world.nnunet[2] / "Dataset801_Tiny")
    assert [p for p in changed(before, snapshot(*world.nnunet)) if not p.startswith(patients)] == []
    left = [path for path in Path(patients).rglob("*") if path.is_file()]
    logs = {path.name.partition("_20")[0] for path in left if path.parent.name == "DiffLung__logs"}
    assert logs == {"difflung_augment", "difflung_remove", *(["difflung_evaluate"] if method == "cbmat" else [])}
    assert {path.name for path in left if path.parent.name != "DiffLung__logs"} == kept


def test_a_command_that_fails_leaves_nothing_behind(world):
    mine = make_dataset(world.nnunet[0], patients=4, slices=1, size=16, folds=2)
    next((mine / "imagesTr").iterdir()).write_bytes(b"damaged")
    before, outside = snapshot(*world.nnunet), world.outside()
    world.run("commands.augment", "-d", "801", "-f", "0", "--method", "copy_paste", *FAST, code=2)
    assert changed(before, snapshot(*world.nnunet)) == []
    assert changed(outside, world.outside()) == []


def test_a_converter_that_lists_or_rehearses_writes_only_the_mapping_that_it_was_given(world):
    archive = world.top / "archive"
    write_volumes(archive, patients=2, binary=True)
    mapping = world.top / "mapping.yaml"
    before, outside = snapshot(archive, *world.nnunet, folder_times=True), world.outside()
    world.run("dataset_conversion.convert", "-i", str(archive), "--list", "--mapping", str(mapping))
    mapping.write_text('labels:\n  normal_lung: ["lungs?"]\n  emphysema: ["emph.*"]\n  ILD: ["ild"]\n')
    options = ["-i", str(archive), "--mapping", str(mapping), "-d", "810", "--name", "Mine", "-np", "1"]
    world.run("dataset_conversion.convert", *options, "--dry-run")
    assert changed(before, snapshot(archive, *world.nnunet, folder_times=True)) == []
    assert changed(outside, world.outside()) == []
