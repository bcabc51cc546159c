"""The data, networks and peaks that several benchmarks measure with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import SimpleITK as sitk
import torch
from diffusers import UNet2DModel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import seconds
from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.dataset_conversion.Dataset800_ChestPhantom import PhantomSettings, build_phantom
from nnunet_difflung.dataset_conversion.phantom.anatomy import Thorax
from nnunet_difflung.dataset_conversion.phantom.cohort import (
    CohortSettings,
    calibrate,
    draw_cohort,
    patient_labels,
    slice_heights,
)
from nnunet_difflung.dataset_conversion.phantom.lesions import lesions_of
from nnunet_difflung.meaning.labels import LabelRoles
from nnunet_difflung.paths import PATH_VARIABLES, SPLITS
from nnunet_difflung.patients.table import PATIENTS_FILE
from nnunet_difflung.runtime.files import read_json, write_json

PHANTOM = "Dataset800_ChestPhantom"
PAINTED_AT_ONCE = 8  # slices, by the public code
ROLES = LabelRoles(("normal_lung",), ("emphysema", "ILD"), (), {"normal_lung": 1, "emphysema": 2, "ILD": 3}, None)


def reference_network() -> UNet2DModel:
    """The network of the public segmentation-guided code's default: image and mask channel in, image out."""
    down, up = ["DownBlock2D"] * 6, ["UpBlock2D"] * 6
    down[4], up[1] = "AttnDownBlock2D", "AttnUpBlock2D"
    return UNet2DModel(
        in_channels=2,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(128, 128, 256, 256, 512, 512),
        down_block_types=tuple(down),
        up_block_types=tuple(up),
    )


@contextmanager
def phantom(size: int, patients: int, slices: int, processes: int = 1) -> Iterator[Path]:
    """A chest phantom as an nnU-Net dataset in a temporary folder, to which nnU-Net's variables point meanwhile."""
    before = {name: os.environ.get(name) for name in PATH_VARIABLES}
    with TemporaryDirectory() as folder:
        for name in PATH_VARIABLES:
            path = Path(folder) / name
            path.mkdir()
            os.environ[name] = str(path)
        build_phantom(
            PhantomSettings(CohortSettings(patients, 0, slices, classic=True), size), PHANTOM, processes, verify=False
        )
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def multiply(raw: Path, times: int) -> None:
    """Gives every case ``times`` − 1 copies, of patients of their own; their intensities are a little higher."""
    for file in list((raw / "labelsTr").iterdir()):
        for copy in range(1, times):
            shutil.copy2(file, file.with_name(_copied(file.name, copy)))
    for file in list((raw / "imagesTr").iterdir()):
        image = sitk.ReadImage(file)
        for copy in range(1, times):
            sitk.WriteImage(image + copy, file.with_name(_copied(file.name, copy)), True)
    content = read_json(raw / "dataset.json")
    write_json(raw / "dataset.json", {**content, "numTraining": content["numTraining"] * times})
    copies = range(times)
    for split in raw.glob(SPLITS):
        folds = [
            {part: [_copied(i, copy) for copy in copies for i in ids] for part, ids in fold.items()}
            for fold in read_json(split)
        ]
        write_json(split, folds)
    for table in raw.glob(PATIENTS_FILE):
        known = read_json(table)
        write_json(
            table,
            {_copied(i, copy): f"{who}, copy {copy}" if copy else who for copy in copies for i, who in known.items()},
        )


def _copied(name: str, copy: int) -> str:
    """The name of a case's copy; that of the case itself for 0."""
    return name.replace("_p", f"_c{copy}p", 1) if copy else name


def phantom_labels(size: int, patients: int, slices: int) -> dict[str, np.ndarray]:
    """Case id → (1, y, x) label values of a phantom cohort, without painting it."""
    cohort = CohortSettings(patients, 0, slices, classic=True)
    extent, found = calibrate(cohort, size), {}
    for number, patient in enumerate(draw_cohort(cohort, False)):
        heights, _ = slice_heights(patient, slices)
        lesions = lesions_of(Thorax(patient, extent.lung_scale), heights, extent)
        labels = patient_labels(lesions, heights, size, cohort.label_noise)[1]
        found |= {f"p{number:03d}_s{i:03d}": label[None].astype(np.uint8) for i, label in enumerate(labels)}
    return found


def facts_of(labels: dict[str, np.ndarray]) -> dict[str, CaseFacts]:
    """What planning knows of label maps."""
    facts = {}
    for identifier, label in labels.items():
        counts = {name: (label == value).sum((1, 2)).tolist() for name, value in ROLES.values.items()}
        facts[identifier] = CaseFacts(identifier, label.shape, 1, (5.0, 0.7, 0.7), "int16", counts, [], content="")
    return facts


@contextmanager
def matrices_in(precision: str) -> Iterator[None]:
    """What torch makes of fp32 on CUDA meanwhile: its own ``default`` (TF32 in convolutions) or ``fp32``."""
    before = torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision()
    torch.backends.cudnn.allow_tf32 = precision == "default"
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before[0]
        torch.set_float32_matmul_precision(before[1])


def forward_flops(network: torch.nn.Module, size: int) -> int:
    """Floating-point operations of one image's pass (a multiplication and an addition count as two)."""
    device = next(network.parameters()).device
    x = torch.zeros(1, network.config.in_channels, size, size, device=device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x, torch.zeros(1, dtype=torch.long, device=device))
    return counter.get_total_flops()


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of what each operation reads and writes; a view moves nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = (part for part in tree_leaves((args, kwargs, out)) if isinstance(part, torch.Tensor))
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        return out


def step_bytes(network: torch.nn.Module, size: int, batch: int, precision: str) -> int:
    """Bytes that the operations of a training step's forward and backward pass read and write, each by itself.

    What lies in a cache, or is fused by a compiler, needs fewer from memory; the optimizer's are not in it.
    """
    device = next(network.parameters()).device
    x = torch.zeros(batch, network.config.in_channels, size, size, device=device)
    t = torch.zeros(batch, dtype=torch.long, device=device)
    with _Traffic() as traffic:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            out = network(x, t).sample
        out.float().square().mean().backward()
    network.zero_grad()
    return traffic.bytes


def matrix_peak(device: str, dtype: torch.dtype, repeats: int = 5) -> float:
    """FLOP/s that a large matrix product reaches here and now, best of the repeats."""
    n = 8192 if device == "cuda" else 1536
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    seconds(lambda: a @ b, device)
    return 2 * n**3 / min(seconds(lambda: a @ b, device) for _ in range(repeats))


def copy_bandwidth(device: str, repeats: int = 5) -> float:
    """Bytes/s read and written by a copy of 256 MB, best of the repeats."""
    a = torch.zeros(64 * 2**20, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / min(seconds(lambda: b.copy_(a), device) for _ in range(repeats + 1))
