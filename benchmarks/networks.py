"""What is a network's size worth: image quality of several networks, each trained for as long, or for as many steps.

    python -m benchmarks.networks --size 64 --seconds 300 --seeds 1 2 --result docs/results/networks_64_cpu.json
    python -m benchmarks.networks --size 64 --steps 1000 --crops 0.5 --precision bf16 --seeds 1 2 \\
        --result docs/results/networks_64_steps_cpu.json

On the phantom, with the method cbmat, which unlike difflung paints the whole slices that difflung_evaluate judges. With
--seconds, each network's step is timed first, and it gets as many epochs as fit; with --steps, all see the same slices.
Then it is trained as difflung_augment does and judged by difflung_evaluate on the fold's validation slices. Rows are
written as they come, also by several of these commands at once; finished ones are skipped. There is no reference but
the network of the public code's default, which is one of those compared (``paper``).
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch
from accelerate import Accelerator

from benchmarks.setting import forward_flops, phantom
from benchmarks.timing import seconds
from nnunet_difflung.commands.evaluate import main as evaluate
from nnunet_difflung.config import GeneratorConfig, preset
from nnunet_difflung.dataset.cache import build_cache, index_slices
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.generator.batches import BatchSource
from nnunet_difflung.generator.diffusion import build_network
from nnunet_difflung.generator.families import trained_family_of
from nnunet_difflung.generator.steps import step_inputs, train_step
from nnunet_difflung.generator.training import FoldData, resolve, total_steps, train_generator
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import cache_folder, fold_folder
from nnunet_difflung.runtime.device import ahead, usual_precision
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import read_json, write_json

METHOD = METHODS["cbmat"]
NETWORKS: dict[str, dict] = {  # learning rates fall with the width, from fast's to paper's
    "8-16-16, 1 block": {"channels": (8, 16, 16), "layers_per_block": 1, "learning_rate": 3e-3},
    "16-32-32, 1 block (fast)": {"channels": (16, 32, 32), "layers_per_block": 1, "learning_rate": 2e-3},
    "16-32-32, 1 block, crops 1/2": {
        "channels": (16, 32, 32),
        "layers_per_block": 1,
        "learning_rate": 2e-3,
        "crops": 0.5,
    },
    "16-32-32, 2 blocks": {"channels": (16, 32, 32), "learning_rate": 2e-3},
    "32-64-64, 1 block": {"channels": (32, 64, 64), "layers_per_block": 1, "learning_rate": 1e-3},
    "32-64-128-128, 2 blocks (default)": {"channels": (32, 64, 128, 128), "learning_rate": 5e-4},
    "48-96-192-192, 2 blocks": {"channels": (48, 96, 192, 192), "learning_rate": 3e-4},
    "64-128-256-256, 2 blocks": {"channels": (64, 128, 256, 256), "learning_rate": 2e-4},
    "64-128-256-256, 2 blocks, crops 3/4": {"channels": (64, 128, 256, 256), "learning_rate": 2e-4, "crops": 0.75},
    "paper, 114 M": {"channels": (128, 128, 256, 256, 512, 512), "attention": True, "learning_rate": 1e-4},
}
KEPT = (
    "psnr_lung",
    "psnr_lung_of_mean",
    "ssim_lung",
    "hu_bias",
    "wasserstein",
    "sd_ratio",
    "texture",
    "seconds_per_image",
)


def config_of(name: str, seed: int, o: argparse.Namespace) -> GeneratorConfig:
    """A network's settings; everything but its size is the ``fast`` preset's."""
    changes = dict(NETWORKS[name])
    patch = round(changes.pop("crops", o.crops) * o.size)
    base = replace(preset("fast").generator, layers_per_block=2)
    return replace(
        base,
        seed=seed,
        patch_size=patch,
        batch_size=o.batch_size,
        precision=o.precision or usual_precision(o.device),
        **changes,
    )


def seconds_a_step(data: FoldData, config: GeneratorConfig, device: str, steps: int = 10) -> float:
    """Of a training that has warmed up; as much as a step takes here and now."""
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")
    family = trained_family_of(METHOD)
    state = family.new_state(config, len(data.channels), len(data.cache.roles.conditions), accelerator.device)
    source = BatchSource(
        data.cache,
        index_slices(data.cache, data.training_cases),
        config,
        config.windows,
        data.frequencies() * 0,
        1000,
        "none",
    )
    update, slots = family.make_update(state, config, accelerator, 1000), list(range(config.batch_size))
    with ahead(lambda step: step_inputs(source, step, slots), range(1000), accelerator.device) as inputs:

        def some() -> None:
            for _ in range(steps):
                train_step(state, update, inputs(state.step), config, 1000)

        seconds(some, device)
        return seconds(some, device) / steps


def study(data: FoldData, name: str, seed: int, o: argparse.Namespace) -> dict:
    """Trains a network for the time that it has and judges what it paints."""
    config = resolve(METHOD, config_of(name, seed, o), data)
    slices = len(index_slices(data.cache, data.training_cases))
    step = seconds_a_step(data, config, o.device)
    steps = o.steps or o.seconds / step
    config = replace(config, epochs=max(1, round(steps / total_steps(replace(config, epochs=1), slices))))
    folder = fold_folder(data.dataset, METHOD.name, data.fold)
    shutil.rmtree(folder, ignore_errors=True)
    taken = seconds(lambda: train_generator(data, METHOD, config, folder, o.device, progress=False), o.device)
    network = build_network(config, len(data.channels), len(data.cache.roles.conditions))
    with tempfile.TemporaryDirectory() as out:
        table = Path(out) / "table1.json"
        evaluate(
            [
                "-d",
                data.dataset,
                "-f",
                str(data.fold),
                "--methods",
                METHOD.name,
                "--preset",
                "fast",
                "--samples",
                str(o.samples),
                "--max-slices",
                str(o.max_slices),
                "-device",
                o.device,
                "-o",
                str(table),
            ]
        )
        found = read_json(table)[METHOD.name]
    return {
        "parameters": sum(w.numel() for w in network.parameters()),
        "steps": total_steps(config, slices),
        "forward_gflop": forward_flops(network, -(-o.size // 32) * 32) / 1e9,
        "ms_a_step": 1000 * step,
        "patch_size": config.patch_size,
        "training_seconds": round(taken, 1),
        **{key: found[key] for key in KEPT},
    }


def each(
    data: FoldData, o: argparse.Namespace, add: Callable[[str, str, dict], None], known: Callable[[], dict]
) -> None:
    """Networks one after the other, seed by seed."""
    for seed in o.seeds:
        for name in o.networks:
            if f"seed {seed}" not in known()["rows"].get(name, {}):
                add(name, f"seed {seed}", study(data, name, seed, o))


def main() -> None:
    """Entry of the command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-device", default="cpu", choices=("cpu", "cuda"), help="(default: cpu)")
    p.add_argument("--size", type=int, default=64, help="pixels along a slice's edge (default: %(default)s)")
    length = p.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=300, help="of training for each (default: %(default)s)")
    length.add_argument("--steps", type=int, help="of training for each, in whole epochs, instead of --seconds")
    p.add_argument(
        "--crops",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="edge of the training crops as a share of "
        "the slice's, for networks whose name does not say it (default: 1)",
    )
    p.add_argument("--precision", choices=("fp32", "bf16"), help="of training (default: bf16 where the GPU has it)")
    p.add_argument(
        "--networks",
        nargs="+",
        default=list(NETWORKS),
        choices=NETWORKS,
        metavar="NETWORK",
        help=f"of {'; '.join(NETWORKS)} (default: all)",
    )
    p.add_argument("--seeds", nargs="+", type=int, default=[1], help="of weights, batches and noise (default: 1)")
    p.add_argument("--patients", type=int, default=24, help="of the phantom, 6 slices each (default: %(default)s)")
    p.add_argument("--batch-size", type=int, default=12, help="(default: %(default)s)")
    p.add_argument("--samples", type=int, default=2, help="of each validation mask (default: %(default)s)")
    p.add_argument("--max-slices", type=int, default=12, help="validation slices (default: %(default)s)")
    p.add_argument("--result", type=Path, required=True, help="JSON file; rows are added to it")
    o = p.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))

    def known() -> dict:
        return read_json(o.result) if o.result.is_file() else {"rows": {}}

    def add(name: str, key: str, found: dict) -> None:
        content = known()
        content["rows"].setdefault(name, {})[key] = found
        command = shlex.join(["python", "-m", "benchmarks.networks", *sys.argv[1:]])
        earlier = [one for one in content.get("meta", {}).get("commands", []) if one != command]
        about = {
            "commands": [*earlier, command],
            "machine": machine(),
            "date": date.today().isoformat(),
            "versions": versions(),
            "size": o.size,
            **({"steps": o.steps} if o.steps else {"seconds": o.seconds}),
        }
        content["meta"] = about
        write_json(o.result, content)
        print(
            f"{name}, {key}: {found['steps']} steps, PSNR of lung {found['psnr_lung']['mean']:.2f}, of the mean "
            f"image {found['psnr_lung_of_mean']['mean']:.2f}",
            flush=True,
        )

    with phantom(o.size, o.patients, 6, min(8, os.cpu_count() or 1)):
        raw = open_raw_dataset("800")
        cache = build_cache(raw, cache_folder(raw.name), progress=False)
        each(FoldData(cache, tuple(raw.channels), raw.name, 0, tuple(raw.training_cases(0))), o, add, known)


if __name__ == "__main__":
    main()
