"""The public segmentation-guided diffusion code as published, rebuilt from its facts with the libraries that it uses.

Facts, from github.com/mazurowski-lab/segmentation-guided-diffusion (Konz et al., MICCAI 2024): images are 8-bit files,
resized to a square and mapped to [−1, 1]; the label values of a mask, divided by 255, are a second input channel; with
mask-ablated training each class is removed from the masks of a batch with a probability of one half. A UNet2DModel of
114 M weights predicts the noise (T = 1000, linear β); AdamW with a learning rate of 10⁻⁴, 500 steps of warm-up, then a
cosine; gradients clipped to 1; batches of 32; fp32; no averaged weights. It paints whole slices in 50 steps of DDIM.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path
from statistics import median

import numpy as np
import torch
from diffusers import DDIMScheduler
from diffusers.optimization import get_cosine_schedule_with_warmup
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.setting import PAINTED_AT_ONCE, reference_network

LEARNING_RATE, WARM_UP, CLIP, STEPS = 1e-4, 500, 1.0, 50
_TRIALS = 3  # timed steps, after a first one


class Slices(Dataset):
    """Pairs of image and mask files, resized."""

    def __init__(self, folder: Path, size: int):
        self.files = sorted((folder / "images").iterdir())
        self.image = transforms.Compose(
            [transforms.Resize((size, size)), transforms.ToTensor(), transforms.Normalize([0.5], [0.5])]
        )
        self.mask = mask_transform(size)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image (1, size, size) in [−1, 1] and mask (1, size, size) in 255ths."""
        file = self.files[index]
        masks = file.parent.parent / "masks"
        with Image.open(file) as image, Image.open(masks / file.name) as mask:
            return self.image(image.convert("L")), self.mask(mask.convert("L"))


def mask_transform(size: int) -> transforms.Compose:
    """A mask's image → (1, size, size) in 255ths."""
    nearest = transforms.InterpolationMode.NEAREST
    return transforms.Compose([transforms.Resize((size, size), interpolation=nearest), transforms.ToTensor()])


def write_slice(folder: Path, name: str, image: np.ndarray, condition: np.ndarray, window: tuple[float, float]) -> None:
    """Writes a slice (h, w) in a window of intensities and its label values as two 8-bit files."""
    low, high = window
    grey = np.rint((np.clip(image, low, high) - low) / (high - low) * 255).astype(np.uint8)
    for kind, values in (("images", grey), ("masks", condition.astype(np.uint8))):
        (folder / kind).mkdir(exist_ok=True)
        Image.fromarray(values).save(folder / kind / f"{name}.png")


def train(folder: Path, values: Sequence[int], o) -> tuple[torch.nn.Module, dict]:
    """Trains on the files in a folder for as many steps as ``o.seconds`` have room for.

    A few steps of another network, batches included, tell how long one takes. Where there are few, a tenth of them is
    warm-up instead of 500.

    Args:
        folder: of the files.
        values: label values that may be ablated.
        o: ``device``, ``seconds``, ``size``, ``batch_size`` of the peer, ``seed``.

    Returns:
        The network, and how it was trained.
    """
    torch.manual_seed(o.seed)
    loader = DataLoader(Slices(folder, o.size), batch_size=o.batch_size, shuffle=True)
    taken = _trained(loader, values, o, [1e-9] * (1 + _TRIALS))[1]
    steps = max(1, int(o.seconds / median(taken[1:])))
    torch.manual_seed(o.seed)
    warm_up = min(WARM_UP, steps // 10)
    begun = time.perf_counter()
    network, _ = _trained(loader, values, o, [LEARNING_RATE * _schedule(i, warm_up, steps) for i in range(steps)])
    seconds = time.perf_counter() - begun
    return network, {"steps": steps, "images_per_s": steps * o.batch_size / seconds, "training_seconds": seconds}


def _schedule(step: int, warm_up: int, steps: int) -> float:
    """The share of the learning rate in a step: the scheduler of diffusers that the code uses."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    return get_cosine_schedule_with_warmup(optimizer, warm_up, steps).lr_lambdas[0](step)


def _trained(loader: DataLoader, values: Sequence[int], o, rates: Sequence[float]) -> tuple[torch.nn.Module, list]:
    """A new network after a step with each learning rate, and the seconds of each step with its batch."""
    network, noising = reference_network().to(o.device), DDIMScheduler(num_train_timesteps=1000)
    optimizer, taken = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE), []
    batches = chain.from_iterable(repeat(loader))
    for rate in rates:
        begun = time.perf_counter()
        optimizer.param_groups[0]["lr"] = rate
        _step(network, noising, optimizer, *(part.to(o.device) for part in next(batches)), values)
        if o.device == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
    return network.eval(), taken


def _step(network, noising, optimizer, images: torch.Tensor, masks: torch.Tensor, values: Sequence[int]) -> None:
    noise = torch.randn_like(images)
    t = torch.randint(0, noising.config.num_train_timesteps, (len(images),), device=images.device)
    for value in values:
        if torch.rand(()) < 0.5:
            masks = torch.where((masks * 255).round() == value, 0.0, masks)
    out = network(torch.cat([noising.add_noise(images, noise, t), masks], 1), t, return_dict=False)[0]
    torch.nn.functional.mse_loss(out, noise).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
    optimizer.step()
    optimizer.zero_grad()


@torch.no_grad()
def paint(
    network: torch.nn.Module, conditions: Sequence[np.ndarray], window: tuple[float, float], o
) -> list[np.ndarray]:
    """Whole slices (h, w) in the window's intensities, painted from label values (h, w), 8 at once as published."""
    generator = torch.Generator().manual_seed(o.seed)
    to_mask, images = mask_transform(o.size), []
    for first in range(0, len(conditions), PAINTED_AT_ONCE):
        part = conditions[first : first + PAINTED_AT_ONCE]
        masks = torch.stack([to_mask(Image.fromarray(values.astype(np.uint8))) for values in part]).to(o.device)
        x = torch.randn((len(part), 1, o.size, o.size), generator=generator).to(o.device)
        denoising = DDIMScheduler(num_train_timesteps=1000)
        denoising.set_timesteps(STEPS)
        for t in denoising.timesteps:
            x = denoising.step(network(torch.cat([x, masks], 1), t).sample, t, x).prev_sample
        grey = ((x[:, 0] / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        for plane, values in zip(grey, part, strict=True):
            back = Image.fromarray(plane).resize(values.shape[::-1], Image.Resampling.BILINEAR)
            images.append(window[0] + np.asarray(back, np.float32) / 255 * (window[1] - window[0]))
    return images
