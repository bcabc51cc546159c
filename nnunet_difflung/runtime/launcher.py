"""Joins the processes that a launcher started, and starts several processes on one machine."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory

from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.console import OBJECTS, objects_in
from nnunet_difflung.runtime.messages import adopt, failed
from nnunet_difflung.runtime.share import Share

_OF_THE_LAUNCHER = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT") if hasattr(signal, name)
)  # Windows has only two of them
MODULE = "nnunet_difflung.commands.augment"


def join(device: str) -> Share:
    """This process's share of the work among the launcher's processes; every process has to call this.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``.
    """
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast

    threads = torch.get_num_threads()
    let_device_change(device)
    state = PartialState(cpu=device == "cpu")
    torch.set_num_threads(threads)  # older versions of accelerate change the number, which sums depend on
    number = secrets.randbits(62)
    if state.num_processes > 1:
        number = int(broadcast(torch.tensor([number], device=state.device)))
    return Share(state.process_index, state.num_processes, f"{number:x}")


def let_device_change(device: str) -> None:
    """Makes accelerate, which keeps the device that a process first asked for, look again if another kind is wanted.

    That is for notebooks; several processes keep the devices that their launcher has given them.

    Args:
        device: ``cpu``, ``cuda`` or ``mps``.
    """
    from accelerate.state import AcceleratorState, PartialState

    if PartialState._shared_state != {}:
        state = PartialState()
        if state.num_processes == 1 and state.device.type != device:
            AcceleratorState._reset_state(reset_partial_state=True)


def leave() -> None:
    """Leaves the process group without waiting for the other processes."""
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def started_by_launcher() -> bool:
    """Whether ``torchrun`` or ``accelerate launch`` has started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def run_in_processes(number: int, arguments: Sequence[str], device: str) -> int:
    """Runs ``difflung_augment`` with these arguments in several processes on this machine, with a GPU for each.

    Args:
        number: number of processes; on the CPU they share the cores.
        arguments: arguments of the command; the processes started here ignore ``-num_gpus``.
        device: ``cuda`` or ``cpu``.

    Returns:
        Exit code of the first process that failed, 128 + the signal after SIGTERM or Ctrl-C, else 0.

    Raises:
        BadInput: there are fewer GPUs than processes, or the device cannot be shared.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    _check_number(number, device)
    if device == "cpu":
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // number)))
    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    try:
        with TemporaryDirectory() as logs, _handlers_kept(), _objects_taken_over():
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=number,
                run_id=uuid.uuid4().hex,
                max_restarts=0,
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                monitor_interval=0.2,
                **_log_folder(logs),
            )
            elastic_launch(config, sys.executable)("-m", MODULE, *arguments)
    except ChildFailedError as error:
        return error.get_first_failure()[1].exitcode % 256
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def _check_number(number: int, device: str) -> None:
    """Refuses more processes than GPUs, and devices that cannot be shared."""
    import torch

    if device not in ("cuda", "cpu"):
        raise BadInput(f"-num_gpus {number} needs -device cuda (or cpu, to share its cores), not {device}")
    if device == "cuda" and number > torch.cuda.device_count():
        raise BadInput(
            f"-num_gpus {number}: torch sees {torch.cuda.device_count()} GPU(s) here "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}); give a smaller number"
        )


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Restores this process's signal handlers afterwards, since torch's launcher does not."""
    before = {number: signal.getsignal(number) for number in _OF_THE_LAUNCHER}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _objects_taken_over() -> Iterator[None]:
    """What the first process reports, and why any of them failed, becomes part of this command's JSON object."""
    with TemporaryDirectory() as folder:
        os.environ[OBJECTS] = folder
        try:
            yield
        finally:
            del os.environ[OBJECTS]
            objects = objects_in(folder)
            for content in objects[:1]:
                adopt(content)
            # a process that fails has the others terminated, which is no reason of its own
            reasons = sorted((each for each in objects if each.get("error")), key=lambda each: each["exit_code"] > 127)
            for content in reasons[:1]:
                failed(content["error"], tuple(content["details"]))


def _log_folder(folder: str) -> dict:
    """Arguments for the folder of the launcher's own files; torch 2.3 changed them."""
    try:
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    except ImportError:
        return {"log_dir": folder}
    return {"logs_specs": DefaultLogsSpecs(log_dir=folder)}
