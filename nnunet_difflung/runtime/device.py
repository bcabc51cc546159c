"""Speed on a GPU without a change of any equation: matrix precision, memory format, compiling, batches made ahead."""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace

import torch

from nnunet_difflung.errors import BadInput

_AHEAD = 6  # maximum number of batches that wait for the GPU
_THREADS = 4  # threads that make batches
_WORTH_COMPILING = 2000  # minimum number of training steps for compiling, which takes a minute or two


def ready_for(network: torch.nn.Module, device: torch.device) -> torch.nn.Module:
    """Moves a network to the device; on CUDA in channels_last, with TF32 for operations in fp32."""
    if device.type != "cuda":
        return network.to(device)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    return network.to(device).to(memory_format=torch.channels_last)


def usual_precision(device: str) -> str:
    """bf16 where the GPU computes in it (compute capability 8.0), fp32 elsewhere."""
    return "bf16" if device == "cuda" and torch.cuda.get_device_capability()[0] >= 8 else "fp32"


def computing_in(precision: str, device: torch.device) -> torch.autocast:
    """A context in which networks compute in ``fp32``, or with torch's autocast in ``bf16``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def in_precision(network: Callable, precision: str, device: torch.device) -> Callable:
    """The network as a function that computes in ``fp32``, or with torch's autocast in ``bf16``."""
    if precision == "fp32":
        return network

    def run(*inputs: torch.Tensor):
        with computing_in(precision, device):
            return network(*inputs)

    return run


class Replayed:
    """A diffusion network whose passes are recorded on CUDA, once for each shape of its input, and replayed.

    Reverse steps on a few crops are so short that the GPU waits for Python to launch their many kernels
    (docs/performance.md). A recorded pass is launched as a whole (CUDA graphs).

    Args:
        network: (x, t) → an object with ``sample``; its weights must not change any more.
        shapes: maximum number of recordings; the least recently used are discarded.
    """

    def __init__(self, network: Callable, shapes: int = 32) -> None:
        self.network, self.shapes = network, shapes
        self.pool = torch.cuda.graph_pool_handle()
        self.recorded: OrderedDict[tuple, tuple] = OrderedDict()

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> SimpleNamespace:
        """Calls the network; later passes do not change the returned tensor."""
        key = (x.shape, x.dtype, t.shape, t.dtype)
        if key not in self.recorded:
            self.recorded[key] = self._record(x, t)
            while len(self.recorded) > self.shapes:
                self.recorded.popitem(last=False)
        self.recorded.move_to_end(key)
        graph, inputs, output = self.recorded[key]
        inputs[0].copy_(x)
        inputs[1].copy_(t)
        graph.replay()
        return SimpleNamespace(sample=output.clone())

    def _record(self, x: torch.Tensor, t: torch.Tensor) -> tuple:
        inputs, graph = (x.clone(), t.clone()), torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # the first passes, in which libraries set themselves up, must not be recorded
            for _ in range(2):
                self.network(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph, pool=self.pool):
            output = self.network(*inputs).sample
        return graph, inputs, output


def for_reverse_steps(network: Callable, precision: str, device: torch.device) -> Callable:
    """A trained diffusion network for reverse steps: in this precision, and on CUDA recorded and replayed."""
    ready = in_precision(network, precision, device)
    return Replayed(ready) if device.type == "cuda" else ready


def parts_that_fit(
    batch: int,
    trial: Callable[[int], None],
    say: Callable[[str], None],
    largest: Callable[[int], int] = lambda parts: parts,
) -> int:
    """The number of parts that a process's batch has to be split into, so that each part fits into the GPU's memory.

    Args:
        batch: number of this process's images in a training step.
        trial: does a forward and a backward pass with this number of images.
        say: prints a line.
        largest: number of parts of this process → the largest number of all processes, which all of them use.

    Raises:
        BadInput: not even one image fits.
    """
    parts = 1
    while True:
        try:
            trial(-(-batch // parts))
            break
        except torch.cuda.OutOfMemoryError as error:
            if parts >= batch:
                raise BadInput(
                    f"the GPU's memory does not hold a single training crop ({str(error)[:120]}); choose a "
                    f"smaller --patch-size, or free the GPU"
                ) from error
            parts = min(batch, 2 * parts)
        torch.cuda.empty_cache()  # here, where the error no longer holds the tensors of the trial
    parts = largest(parts)
    if parts > 1:
        say(
            f"{batch} images do not fit the GPU's memory at once: gradients are summed over {parts} parts of a step, "
            f"which gives the same training, slower"
        )
    return parts


def worth_compiling(device: torch.device, steps: int) -> bool:
    """Whether torch.compile pays off: on CUDA, in a long training, unless nnU-Net's ``nnUNet_compile`` forbids it."""
    allowed = os.environ.get("nnUNet_compile", "true").lower() not in ("false", "0", "f")
    return allowed and device.type == "cuda" and steps >= _WORTH_COMPILING


def compiled(network: Callable, trial: Callable[[Callable], None], say: Callable[[str], None]) -> Callable:
    """The compiled network; if compiling fails, a line with the reason is printed and the network itself returned.

    Args:
        network: shares its weights with the compiled network.
        trial: does a forward and a backward pass, since each is compiled at its first call.
        say: prints a line.
    """
    try:
        fast = torch.compile(network)
        trial(fast)
    except Exception as error:  # compilers raise all kinds of exceptions
        reason = (str(error).strip() or "no reason given").splitlines()[0][:160]
        say(f"torch.compile does not work here ({type(error).__name__}: {reason}); training without it is slower")
        return network
    return fast


def steps_between_losses(device: torch.device) -> int:
    """Training steps between readings of the loss; a reading makes the CPU wait for the GPU."""
    return 8 if device.type == "cuda" else 1


@contextmanager
def ahead(
    make: Callable[[int], tuple[torch.Tensor, ...]], steps: range, device: torch.device, threads: int | None = None
) -> Iterator[Callable[[int], tuple[torch.Tensor, ...]]]:
    """Makes the batches of the next steps in threads while the device computes.

    ``make`` has to be a pure function of the step, so the batches do not depend on the number of threads.

    Args:
        make: step → tensors on the CPU.
        steps: the steps that will be requested, in this order.
        device: device to move the tensors to; for CUDA from pinned memory and without waiting.
        threads: number of threads that make batches; with 0 a batch is made when it is requested. Default: 4 for CUDA,
            else 0, since the processor is busy with the training itself.

    Yields:
        A function step → tensors on the device.
    """
    cuda = device.type == "cuda"
    if threads is None:
        threads = _THREADS if cuda else 0

    def moved(parts: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(part.to(device, non_blocking=cuda) for part in parts)

    if not threads:
        yield lambda step: moved(make(step))
        return
    coming, waiting = iter(steps), deque[tuple[int, Future]]()

    def made(step: int) -> tuple[torch.Tensor, ...]:
        return tuple(part.pin_memory() if cuda else part for part in make(step))

    with ThreadPoolExecutor(threads) as pool:

        def take(step: int) -> tuple[torch.Tensor, ...]:
            while len(waiting) < _AHEAD and (following := next(coming, None)) is not None:
                waiting.append((following, pool.submit(made, following)))
            expected, future = waiting.popleft()
            if expected != step:
                raise RuntimeError(f"step {step} was requested, but step {expected} is next")
            return moved(future.result())

        try:
            yield take
        finally:
            for _, future in waiting:
                future.cancel()


def default_device() -> str:
    """The fastest device that torch can use."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def check_device(device: str) -> None:
    """Checks that torch can use a device.

    Raises:
        BadInput: it cannot, or there is no kind of device with this name.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device not in available:
        raise BadInput(
            f"device is {str(device)!r}; expected {', '.join(available)} (which GPU 'cuda' is, the variable "
            f"CUDA_VISIBLE_DEVICES says): give one of these"
        )
    if not available[device]:
        raise BadInput(
            f"-device {device}: torch {torch.__version__} sees no such device here; use -device "
            f"{' or '.join(name for name, usable in available.items() if usable)}, or repair the driver"
        )
