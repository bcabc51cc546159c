"""nnU-Net trainings small enough for a CPU: a smaller U-Net, commands run in parallel, Dice of the results."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

from nnunet_difflung.errors import Failed
from nnunet_difflung.runtime.files import read_json, write_json
from nnunet_difflung.runtime.messages import say

CONFIGURATION = "2d_demo"  # ``small_name`` of 2d
ALL_CASES_ALIKE = {"DIFFLUNG_SYNTHETIC_SHARE": "", "DIFFLUNG_SYNTHETIC_SCHEDULE": ""}  # whatever the user's shell has
FEATURES = (16, 32, 64, 128, 128)  # nnU-Net's plan has 32 to 512


def side_by_side(commands: dict[Path, list[str]], environment: dict[str, str]) -> None:
    """Runs commands at the same time, on one core each.

    This package's trainers respect OMP_NUM_THREADS. Without worker processes for data augmentation a training is
    repeatable.

    Args:
        commands: log file → command whose output is written to it.
        environment: environment variables of the commands.

    Raises:
        Failed: a command ended with an error.
    """
    one_core = environment | {"OMP_NUM_THREADS": "1", "nnUNet_n_proc_DA": "0"} | ALL_CASES_ALIKE
    running = {}
    for log, arguments in commands.items():
        say(f"\n$ {shown(arguments)}   > {log}")
        with open(log, "w", encoding="utf-8") as file:
            running[log] = subprocess.Popen(installed(arguments), stdout=file, stderr=subprocess.STDOUT, env=one_core)
    try:
        failed = {log: code for log, process in running.items() if (code := process.wait())}
    except BaseException:
        for process in running.values():
            process.kill()
        raise
    for log, code in failed.items():
        raise Failed(how_it_ended(commands[log][0], code, f"see {log}"))


def how_it_ended(command: str, code: int, place: str) -> str:
    """The message about a command that ended with an exit code other than 0, or by a signal, whose number is negative.

    Args:
        command: the command as the user would type it.
        code: as ``subprocess`` gives it.
        place: where the command has left its own message, such as ``see FILE``.
    """
    if code > 0:
        return f"{command} failed; {place}"
    memory = " (as it does when memory runs out)" if code == -signal.SIGKILL else ""
    return (
        f"{command} was stopped by {signal.Signals(-code).name}, sent by another program or the system{memory}; "
        f"run the same command again to continue"
    )


def small_name(configuration: str) -> str:
    """The name of the smaller variant of one of nnU-Net's configurations."""
    return f"{configuration}_demo"


def make_small_configuration(
    path: Path, convolutions: int | None = None, stages: int | None = None, configuration: str = "2d", **changes
) -> None:
    """Adds a configuration with a smaller U-Net, which all arms train, to a plans file.

    Args:
        path: path of nnU-Net's plans.
        convolutions: number in each stage; None for that of the plans.
        stages: number of resolutions, at most that of the plans, which is taken for None. Patches smaller than those of
            the plans need fewer stages, since each halves the patch.
        configuration: of nnU-Net, whose smaller variant is made (``small_name``).
        **changes: further entries of the configuration, such as ``batch_size`` and ``patch_size``.
    """
    plans = read_json(path)
    architecture = json.loads(json.dumps(plans["configurations"][configuration]["architecture"]))
    inner = architecture["arch_kwargs"]
    stages = min(stages or inner["n_stages"], inner["n_stages"])
    for name, values in inner.items():
        if isinstance(values, list):
            inner[name] = values[: stages - 1 if name == "n_conv_per_stage_decoder" else stages]
    inner["n_stages"] = stages
    inner["features_per_stage"] = list((*FEATURES, *[FEATURES[-1]] * stages)[:stages])
    if convolutions:
        inner |= {
            "n_conv_per_stage": [convolutions] * stages,
            "n_conv_per_stage_decoder": [convolutions] * (stages - 1),
        }
    small = {"inherits_from": configuration, "architecture": architecture, **changes}
    plans["configurations"][small_name(configuration)] = small
    write_json(path, plans)


def installed(arguments: list[str]) -> list[str]:
    """The command with its path in this interpreter's environment, which may not be on the PATH."""
    beside = Path(sysconfig.get_path("scripts")) / arguments[0]
    return [str(beside) if beside.is_file() else arguments[0], *arguments[1:]]


def shown(arguments: list[str]) -> str:
    """The command as a user would type it."""
    return " ".join(["python" if arguments[0] == sys.executable else arguments[0], *arguments[1:]])


def pooled_dice(cases: list[dict], key: str) -> float:
    """Dice of a label over all voxels of the cases of nnU-Net's ``summary.json`` (0 if it is absent everywhere)."""
    tp, fp, fn = (sum(case["metrics"][key][count] for case in cases) for count in ("TP", "FP", "FN"))
    return 2 * tp / max(1, 2 * tp + fp + fn)
