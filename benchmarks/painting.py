"""How many seconds does a painted slice take, against 50 and 1000 DDIM steps of the public code's network?

Ours is a preset's network, sampler and steps in composite: the plan's lesions on phantom slices, crops around the
changed regions, batched. The reference is the 113.7 M-parameter network in fp32 on whole slices, 8 at once as the
public code paints them; a few of its steps are timed in every repeat and multiplied (a step costs the same at every
timestep). Speed does not depend on what weights hold, so both are untrained here.

Not timed, of ours: planning and pasting masks, styles and fading, the gate and the search for memorised lesions,
writing files, loading the network, and on CUDA the recording of its passes. Of the reference: its sampler between two
passes, reading masks, writing pictures, loading the network. The quality in the row is that of both networks trained
for as many steps (docs/results/networks_64_steps_cpu.json), both painted as whole slices with 25 DDIM steps.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch

from benchmarks.setting import PAINTED_AT_ONCE, ROLES, facts_of, matrices_in, phantom_labels, reference_network
from benchmarks.timing import RESULTS, alternating, parser, row, write_rows
from nnunet_difflung.config import METHOD, BalanceConfig, SamplingConfig, preset
from nnunet_difflung.generator.diffusion import build_network
from nnunet_difflung.generator.families import trained_family_of, with_own_sampling
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.lesions.balance import collect_lesions, make_plan
from nnunet_difflung.lesions.pasting import apply_operations
from nnunet_difflung.methods import METHODS
from nnunet_difflung.painting.jobs import make_jobs, paint_jobs
from nnunet_difflung.preparing.application import AppliedCase, painted_region
from nnunet_difflung.runtime.device import ready_for
from nnunet_difflung.runtime.files import read_json


def applied_cases(size: int, bound: int, sampling: SamplingConfig) -> list[AppliedCase]:
    """Planned cases on phantom label maps; their images are flat, which costs the network the same."""
    labels = phantom_labels(size, 8, 4)
    facts = facts_of(labels)
    lesions = collect_lesions(list(labels), facts, ROLES, labels.__getitem__)
    plan = make_plan(
        list(facts.values()),
        lesions,
        ROLES,
        BalanceConfig(default_share=0.3, max_synthetic=bound),
        0,
        labels.__getitem__,
    )
    cases = []
    for planned in plan.cases:
        label, spacing = labels[planned.host], facts[planned.host].spacing
        new_label, _ = apply_operations(planned.operations, label, spacing, lesions, ROLES)
        changed, image = new_label != label, label[None] * 100.0 - 900.0
        region = painted_region(label, changed, ROLES, sampling)
        cases.append(AppliedCase(planned, label.shape, spacing, image, new_label, changed, new_label, region))
    return cases


def our_painting(o, settings):
    """A call that paints all cases, as synthesis does, and what it paints."""
    config, method = replace(settings.generator, windows=((-1000.0, 1000.0),)), METHODS[settings.method]
    beside = trained_family_of(method).channels_beside_image(config, 1, len(ROLES.conditions))
    network = build_network(config, 1, beside).eval().requires_grad_(False)
    network = ready_for(network, torch.device(o.device))
    generator = Generator(network, config, ROLES.conditions, (), "", Path())
    cases = applied_cases(o.size, o.slices, settings.sampling)

    def paint() -> dict[str, int]:
        groups = defaultdict(list)
        for applied in cases:
            for job in make_jobs(applied, generator, ROLES, settings.sampling, 0):
                groups[job.shape].append(job)
        batch = settings.sampling.batch_size
        for jobs in groups.values():
            for first in range(0, len(jobs), batch):
                paint_jobs(jobs[first : first + batch], method, generator, settings.sampling, o.device)
        return {f"{h} × {w}": len(jobs) for (h, w), jobs in groups.items()}

    return paint


def reference_steps(size: int, batch: int, steps: int, device: str, precision: str):
    """A call of some reverse steps of the reference network on whole slices."""
    network = reference_network().eval().requires_grad_(False).to(device)
    x, t = torch.randn(batch, 2, size, size, device=device), torch.full((batch,), 500, device=device)

    @matrices_in(precision)
    @torch.no_grad()
    def run() -> None:
        for _ in range(steps):
            network(x, t)

    return run


def trained_quality(name: str) -> dict:
    """What a preset's network and the reference's paint after as many training steps (means over the seeds)."""
    path = RESULTS.parent / "networks_64_steps_cpu.json"
    rows = read_json(path)["rows"] if path.is_file() else {}

    def worth(ending: str) -> dict:
        runs = [run for network, seeds in rows.items() if network.endswith(ending) for run in seeds.values()]
        return {"seeds": len(runs)} | {
            key: {group: round(fmean(run[key][group]["mean"] for run in runs), 3) for group in runs[0][key]}
            for key in ("hu_bias", "wasserstein", "texture")
            if runs
        }

    return {
        "of": "cbmat in 25 steps of DDIM, both networks trained on crops of 32² for as many steps, "
        "docs/results/networks_64_steps_cpu.json; difflung in 8 steps: docs/results/regions_lidc_tuning_steps.json",
        "ours": worth(f"({name})"),
        "reference": worth("114 M"),
    }


def main() -> None:
    """Entry of the command line."""
    p = parser(__doc__, 64)
    p.add_argument("--method", default=METHOD, choices=(METHOD, "cbmat"), help="ours (default: %(default)s)")
    p.add_argument("--preset", default="fast", choices=("fast", "default"), help="ours (default: fast)")
    p.add_argument("--steps", type=int, help="ours (default: the method's in the preset)")
    p.add_argument("--slices", type=int, default=8, help="painted in each repeat (default: %(default)s)")
    p.add_argument("--precision", default="fp32", choices=("fp32", "bf16"), help="ours (default: fp32)")
    p.add_argument("--batch-size", type=int, help="crops painted at once, ours (default: the preset's)")
    p.add_argument(
        "--reference-batch", type=int, default=PAINTED_AT_ONCE, help="of the reference (default: %(default)s)"
    )
    p.add_argument("--reference-steps", type=int, default=5, help="timed in each repeat (default: %(default)s)")
    o = p.parse_args()
    settings = replace(preset(o.preset), method=o.method)
    sampling = with_own_sampling(METHODS[o.method], settings.sampling)
    changed = {"precision": o.precision, "batch_size": o.batch_size or sampling.batch_size}
    changed["steps"] = o.steps or sampling.steps
    settings = replace(settings, sampling=replace(sampling, **changed))
    ours_is = f"{o.method}, preset {o.preset}" + (f" in {o.steps} steps" if o.steps else "")
    ours = our_painting(o, settings)
    crops = ours()
    slices = sum(crops.values())
    reference = reference_steps(o.size, o.reference_batch, o.reference_steps, o.device, o.reference_precision)
    mine, step = alternating(ours, reference, o.repeats, o.device)
    per_step = [t / o.reference_steps / o.reference_batch for t in step]
    write_rows(
        o.output,
        [
            row(
                f"painting, {ours_is} composite against {steps} steps, {o.size}²",
                [t / slices for t in mine],
                [t * steps for t in per_step],
                "s a slice",
                o.device,
                trained_quality(o.preset),
                crops=crops,
                our_steps=settings.sampling.steps,
                sampler=settings.sampling.sampler,
                precision=o.precision,
                our_batch=settings.sampling.batch_size,
                reference_batch=o.reference_batch,
                timed_reference_steps=o.reference_steps,
                batches=math.ceil(slices / settings.sampling.batch_size),
            )
            for steps in (50, 1000)
        ],
    )


if __name__ == "__main__":
    main()
