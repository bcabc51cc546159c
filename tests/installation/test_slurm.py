"""The SLURM script runs one fold, requeues what can be resumed, and nothing else."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "slurm" / "augment.sbatch"
PAGE = SCRIPT.parents[1] / "container.md"
WAITING = """trap 'echo saved >> "$SAID"; exit 143' TERM
echo begun >> "$SAID"
while :; do sleep 0.05; done
"""


@pytest.fixture
def cluster(tmp_path: Path):
    """Runs the script with stand-ins for the two programs that it calls."""

    def run(
        program: str, *arguments: str, name: str = "difflung_augment", script: Path = SCRIPT
    ) -> tuple[subprocess.Popen, Path]:
        said = tmp_path / "said.txt"
        said.write_text("")
        for called, body in ((name, program), ("scontrol", 'echo "scontrol $*" >> "$SAID"')):
            (tmp_path / called).write_text(f'#!/bin/bash\necho "{called} $*" >> "$SAID.calls"\n{body}\n')
            (tmp_path / called).chmod(0o755)
        variables = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "SAID": str(said),
            "SLURM_ARRAY_JOB_ID": "77",
            "SLURM_ARRAY_TASK_ID": "3",
        }
        process = subprocess.Popen(["bash", script, *arguments], env=os.environ | variables, stderr=subprocess.PIPE)
        return process, said

    return run


def wait_for(said: Path, text: str) -> None:
    for _ in range(1200):
        if text in said.read_text():
            return
        time.sleep(0.05)
    pytest.fail(f"{text!r} was never said")


def test_a_task_runs_its_fold_with_all_options(cluster) -> None:
    process, said = cluster("exit 0", "801", "--target-share", "ground glass=0.1")
    assert process.wait() == 0
    calls = Path(f"{said}.calls").read_text()
    assert calls == "difflung_augment -d 801 -f 3 --target-share ground glass=0.1\n", "and no requeue"


def test_a_preempted_task_saves_and_is_requeued(cluster) -> None:
    process, said = cluster(WAITING, "801")
    wait_for(said, "begun")
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert said.read_text().split("\n")[1:] == ["saved", "scontrol requeue 77_3", ""]


def test_a_task_in_a_container_does_the_same(cluster, tmp_path) -> None:
    (line,) = re.findall(r"^    (difflung_augment\(\) .+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    script = tmp_path / "augment.sbatch"
    script.write_text(re.sub(r"^# source your environment.+$", lambda _: line, SCRIPT.read_text(), flags=re.MULTILINE))
    process, said = cluster(WAITING, "801", name="apptainer", script=script)
    wait_for(said, "begun")
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    assert said.read_text().split("\n")[1:] == ["saved", "scontrol requeue 77_3", ""]
    calls = Path(f"{said}.calls").read_text()
    assert re.match(r"apptainer exec .*--nv .*\.sif difflung_augment -d 801 -f 3\n", calls)


@pytest.mark.parametrize("code", [1, 2, 130])
def test_what_failed_is_not_requeued(cluster, code: int) -> None:
    process, said = cluster(f"exit {code}", "801")
    assert process.wait() == code
    assert "requeue" not in Path(f"{said}.calls").read_text()


def test_without_a_dataset_it_says_how_it_is_used(cluster) -> None:
    process, _ = cluster("exit 0")
    assert "usage: sbatch" in process.communicate()[1].decode()
    assert process.returncode != 0
