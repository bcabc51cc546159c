"""How long do a training step and a painted slice of one method take, against those of another, in the same process?

Both are this package's own (``benchmarks.training``, ``benchmarks.painting``) with the same preset, crops and slices,
each with its own sampler and steps; the reference is cbmat, the paper's method.
"""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import replace

from benchmarks.painting import our_painting
from benchmarks.setting import phantom
from benchmarks.timing import alternating, parser, row, write_rows
from benchmarks.training import our_steps
from nnunet_difflung.config import METHOD, PAPERS_METHOD, preset
from nnunet_difflung.generator.families import with_own_sampling
from nnunet_difflung.methods import METHODS

METHODS_COMPARED = (METHOD, PAPERS_METHOD)
QUALITY = {"note": "time alone; what both methods paint is compared in docs/results.md"}


def training(o: Namespace) -> dict:
    """The row of training steps."""
    first, second = (Namespace(**vars(o), method=name) for name in METHODS_COMPARED)
    with (
        phantom(o.size, 5, 4, min(4, os.cpu_count() or 1)) as folder,
        our_steps(folder, first) as (ours, _, slots, _),
        our_steps(folder, second) as (theirs, _, others, _),
    ):
        mine, other = alternating(ours, theirs, o.repeats, o.device)
    rates = [o.steps * len(slots) / t for t in mine], [o.steps * len(others) / t for t in other]
    return row(
        f"training, {_compared(o)}", *rates, "images/s", o.device, QUALITY, batch_sizes=[len(slots), len(others)]
    )


def painting(o: Namespace) -> dict:
    """The row of painted slices."""
    work, steps = [], []
    for name in METHODS_COMPARED:
        settings = replace(preset(o.preset), method=name)
        sampling = replace(with_own_sampling(METHODS[name], settings.sampling), precision=o.precision)
        work.append(our_painting(o, replace(settings, sampling=sampling)))
        steps.append(sampling.steps)
    slices = [sum(paint().values()) for paint in work]
    times = alternating(*work, o.repeats, o.device)
    each = ([t / n for t in of] for of, n in zip(times, slices, strict=True))
    return row(f"painting, {_compared(o)}", *each, "s a slice", o.device, QUALITY, steps=steps, slices=slices)


def _compared(o: Namespace) -> str:
    return f"{' against '.join(METHODS_COMPARED)}, preset {o.preset} {o.precision}, {o.size}²"


def main() -> None:
    """Entry of the command line."""
    p = parser(__doc__, 64)
    p.add_argument("--preset", default="fast", choices=("fast", "default"), help="of both (default: fast)")
    p.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="of both (default: fp32)")
    p.add_argument("--patch-size", type=int, help="edge of the crops that are trained on (default: the whole slice)")
    p.add_argument("--batch-size", type=int, help="of a training step (default: the preset's)")
    p.add_argument("--steps", type=int, default=5, help="of training in a turn (default: %(default)s)")
    p.add_argument("--slices", type=int, default=8, help="painted in a turn (default: %(default)s)")
    o = p.parse_args()
    write_rows(o.output, [training(o)])
    write_rows(o.output, [painting(o)])


if __name__ == "__main__":
    main()
