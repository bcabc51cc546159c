"""How many images a second does training see, against the network that the public code trains by default?

Ours is the whole training step of a method with a preset, its batches made from the cache, its averaged weights
included. The reference is the 113.7 M-parameter network in fp32, eager, AdamW, with its batch already on the device
(which favours it: the public code decodes PNG files in the main process). The reference sees whole slices of --size, as
the public code does; ours sees them too, or crops of --patch-size, and on CUDA it is compiled, as in a long training. A
turn is --steps steps. The row has FLOPs, the share of the matrix peak that a large product reaches in the same run, the
bytes that the operations move and how long that takes at the speed of a copy (a roofline), and how long a step would
wait for batches if none were made ahead. Rows whose name has no method are of cbmat.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from accelerate import Accelerator

from benchmarks.setting import (
    copy_bandwidth,
    forward_flops,
    matrices_in,
    matrix_peak,
    phantom,
    reference_network,
    step_bytes,
)
from benchmarks.timing import alternating, parser, row, seconds, write_rows
from nnunet_difflung.config import METHOD, PAPERS_METHOD, preset
from nnunet_difflung.dataset.cache import build_cache, index_slices
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.generator.diffusion import diffusion_loss, forward_process
from nnunet_difflung.generator.families import trained_family_of
from nnunet_difflung.generator.steps import step_inputs, train_step
from nnunet_difflung.generator.training import FoldData, resolve
from nnunet_difflung.methods import METHODS
from nnunet_difflung.runtime.device import ahead

TOTAL = 100_000  # steps of the training that is timed in a part: long enough to be worth compiling


@contextmanager
def our_steps(folder: Path, o: argparse.Namespace) -> Iterator[tuple]:
    """A preset's training steps on the phantom: a call of some, their batch source, slots and network."""
    raw = open_raw_dataset("800")
    cache = build_cache(raw, folder / "cache", progress=False)
    data = FoldData(cache, tuple(raw.channels), raw.name, 0, tuple(raw.training_cases(0)))
    config = replace(preset(o.preset).generator, patch_size=o.patch_size or o.size, precision=o.precision)
    method = METHODS[o.method]
    config = resolve(method, replace(config, batch_size=o.batch_size or config.batch_size), data)
    accelerator = Accelerator(cpu=o.device == "cpu", mixed_precision="no")
    family = trained_family_of(method)
    state = family.new_state(config, 1, len(raw.roles.conditions), accelerator.device)
    update = family.make_update(state, config, accelerator, TOTAL)
    source = family.source(
        cache, index_slices(cache, data.training_cases), config, config.windows, data.frequencies() * 0, TOTAL, "none"
    )
    slots = list(range(config.batch_size))
    with ahead(lambda step: step_inputs(source, step, slots), range(TOTAL), accelerator.device) as inputs:

        def run() -> None:
            for _ in range(o.steps):
                train_step(state, update, inputs(state.step), config, TOTAL)

        yield run, source, slots, state.network


def reference_steps(o: argparse.Namespace) -> tuple[Callable, torch.nn.Module]:
    """A call of steps of the reference network on a batch that lies in memory, and the network."""
    size, batch, device = o.size, o.reference_batch, o.device
    network = reference_network().to(device)
    optimizer, process = torch.optim.AdamW(network.parameters(), lr=1e-4), forward_process(preset("paper").generator)
    image, mask = (torch.randn(batch, 1, size, size, device=device) for _ in range(2))
    weight = torch.ones_like(image)

    @matrices_in(o.reference_precision)
    def run() -> None:
        for _ in range(o.steps):
            t = torch.randint(0, 1000, (batch,), device=device)
            diffusion_loss(network, process, image, mask, weight, torch.randn_like(image), t).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return run, network


def name_of(o: argparse.Namespace) -> str:
    """Of the row; a GPU's default reference is TF32, and the CPU's is fp32 in any case."""
    against = " against true fp32" if o.reference_precision == "fp32" and o.device == "cuda" else ""
    crops = f", crops of {o.patch_size}²" if o.patch_size not in (None, o.size) else ""
    return f"training, {o.method}, preset {o.preset} {o.precision}, {o.size}²{crops}{against}"


def _limits(matrices: float, memory: float, measured: float) -> dict[str, float]:
    return {"matrices": matrices, "memory": memory, "measured": measured}


def main() -> None:
    """Entry of the command line."""
    p = parser(__doc__, 64)
    p.add_argument("--preset", default="fast", choices=("fast", "default", "paper"), help="ours (default: fast)")
    p.add_argument("--method", choices=(METHOD, PAPERS_METHOD), help="ours (default: the preset's)")
    p.add_argument("--precision", default="bf16", choices=("fp32", "bf16"), help="ours (default: bf16)")
    p.add_argument("--patch-size", type=int, help="edge of our crops (default: the whole slice, as the reference's)")
    p.add_argument("--batch-size", type=int, help="of our step (default: the preset's)")
    p.add_argument("--reference-batch", type=int, default=16, help="of the reference (default: %(default)s)")
    p.add_argument("--steps", type=int, default=1, help="in a turn; on CUDA 20 (default: %(default)s)")
    o = p.parse_args()
    o.method = o.method or preset(o.preset).method
    processes = min(4, os.cpu_count() or 1)
    with phantom(o.size, 5, 4, processes) as folder, our_steps(folder, o) as (ours, source, slots, network):
        other, reference = reference_steps(o)
        mine, theirs = alternating(ours, other, o.repeats, o.device)
        making = median(seconds(lambda: step_inputs(source, 7, slots)) for _ in range(5))
    dtype = torch.bfloat16 if o.precision == "bf16" else torch.float32
    edge = o.patch_size or o.size
    flops = [forward_flops(network, edge), forward_flops(reference, o.size)]
    peaks = {"ours": matrix_peak(o.device, dtype)}
    with matrices_in(o.reference_precision):
        peaks["reference"] = matrix_peak(o.device, torch.float32)
    moved = [
        step_bytes(network, edge, len(slots), o.precision),
        step_bytes(reference, o.size, o.reference_batch, "fp32"),
    ]
    bandwidth = copy_bandwidth(o.device)
    rates = [[o.steps * len(slots) / t for t in mine], [o.steps * o.reference_batch / t for t in theirs]]
    quality = {"note": "speed of the step alone; what the trained weights are worth is in docs/results.md"}
    write_rows(
        o.output,
        [
            row(
                name_of(o),
                *rates,
                "images/s",
                o.device,
                quality,
                parameters=[sum(w.numel() for w in n.parameters()) for n in (network, reference)],
                forward_flops_per_image=flops,
                matrix_peak_flops=peaks,
                copy_bytes_per_s=bandwidth,
                bytes_per_step=moved,
                share_of_peak={
                    "ours": 3 * flops[0] * median(rates[0]) / peaks["ours"],
                    "reference": 3 * flops[1] * median(rates[1]) / peaks["reference"],
                },
                roofline_s_per_step={  # what a step would take if nothing but this limited it, and what it takes
                    "ours": _limits(
                        3 * flops[0] * len(slots) / peaks["ours"], moved[0] / bandwidth, median(mine) / o.steps
                    ),
                    "reference": _limits(
                        3 * flops[1] * o.reference_batch / peaks["reference"],
                        moved[1] / bandwidth,
                        median(theirs) / o.steps,
                    ),
                },
                batch_sizes=[len(slots), o.reference_batch],
                steps_in_a_turn=o.steps,
                waiting_for_batches_without_making_them_ahead=making / (median(mine) / o.steps),
            )
        ],
    )


if __name__ == "__main__":
    main()
