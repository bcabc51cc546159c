"""How many images a second does training see, against the network that the public code trains by default?

Ours is the whole training step of a preset, its batches made from the cache, its averaged weights included. The
reference is the 113.7 M-parameter network in fp32, eager, AdamW, with its batch already in memory (which favours it:
the public code decodes PNG files in the main process). Both see crops of --size. The row has FLOPs, the share of the
matrix peak that a large product reaches in the same run, and the share of a step that passes before the device has
anything to do.
"""
from __future__ import annotations

from dataclasses import replace
from statistics import median

import torch
from _setting import copy_bandwidth, forward_flops, matrix_peak, phantom, reference_network
from _timing import alternating, parser, row, seconds, write_rows
from accelerate import Accelerator

from nnunet_difflung.batches import BatchSource, index_slices
from nnunet_difflung.config import preset
from nnunet_difflung.diffusion import diffusion_loss, forward_process
from nnunet_difflung.raw_dataset import open_raw_dataset
from nnunet_difflung.slices import build_cache
from nnunet_difflung.train import FoldData, resolve
from nnunet_difflung.train_step import make_update, new_state, train_step


def our_step(folder, o):
    """A preset's training step on the phantom: the step, its batch source, its slots and its network."""
    raw = open_raw_dataset("800")
    cache = build_cache(raw, folder / "cache", progress=False)
    data = FoldData(cache, tuple(raw.channels), raw.name, 0, tuple(raw.training_cases(0)))
    config = replace(preset(o.preset).generator, patch_size=o.size, precision=o.precision)
    config = resolve(replace(config, batch_size=o.batch_size or config.batch_size), data)
    accelerator = Accelerator(cpu=o.device == "cpu", mixed_precision="no" if o.precision == "fp32" else "bf16")
    state = new_state(config, 1, len(raw.roles.conditions), accelerator.device)
    update = make_update(state, config, accelerator)
    source = BatchSource(cache, index_slices(cache, data.training_cases), config, config.windows,
                         data.frequencies() * 0, 10_000)
    slots = list(range(config.batch_size))
    return lambda: train_step(state, update, source, accelerator, slots), source, slots, state.network


def reference_step(size: int, batch: int, device: str):
    """A step of the reference network on a batch that lies in memory, and the network."""
    network = reference_network().to(device)
    optimizer, process = torch.optim.AdamW(network.parameters(), lr=1e-4), forward_process(preset("paper").generator)
    image, mask = (torch.randn(batch, 1, size, size, device=device) for _ in range(2))
    weight = torch.ones_like(image)

    def step() -> None:
        t = torch.randint(0, 1000, (batch,), device=device)
        diffusion_loss(network, process, image, mask, weight, torch.randn_like(image), t).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step, network


def main() -> None:
    """Entry of the command line."""
    p = parser(__doc__, 64)
    p.add_argument("--preset", default="fast", choices=("fast", "default", "paper"), help="ours (default: fast)")
    p.add_argument("--precision", default="bf16", choices=("fp32", "bf16"), help="ours (default: bf16)")
    p.add_argument("--batch-size", type=int, help="of our step (default: the preset's)")
    p.add_argument("--reference-batch", type=int, default=16, help="of the reference (default: %(default)s)")
    o = p.parse_args()
    with phantom(o.size, 5, 4) as folder:
        ours, source, slots, network = our_step(folder, o)
        other, reference = reference_step(o.size, o.reference_batch, o.device)
        mine, theirs = alternating(ours, other, o.repeats, o.device)
        making = median(seconds(lambda: source.batch(7, slots)) for _ in range(5))
    dtype = torch.bfloat16 if o.precision == "bf16" else torch.float32
    flops = [forward_flops(n, o.size) for n in (network, reference)]
    peaks = {"ours": matrix_peak(o.device, dtype), "reference": matrix_peak(o.device, torch.float32)}
    rates = [[len(slots) / t for t in mine], [o.reference_batch / t for t in theirs]]
    quality = {"note": "speed of the step alone; what the trained weights are worth is in docs/results.md"}
    write_rows(o.output, [row(
        f"training, preset {o.preset} {o.precision}, {o.size}²", *rates, "images/s", o.device, quality,
        parameters=[sum(w.numel() for w in n.parameters()) for n in (network, reference)],
        forward_flops_per_image=flops, matrix_peak_flops=peaks, copy_bytes_per_s=copy_bandwidth(o.device),
        share_of_peak={"ours": 3 * flops[0] * median(rates[0]) / peaks["ours"],
                       "reference": 3 * flops[1] * median(rates[1]) / peaks["reference"]},
        batch_sizes=[len(slots), o.reference_batch], waiting_for_batches=making / median(mine))])


if __name__ == "__main__":
    main()
