"""How much texture an ideal denoiser keeps: our quadratic timesteps compared with diffusers' evenly spaced DDIM.

    python -m experiments.reverse_timesteps

x_0 ~ N(100 HU, (40 HU)²) in every pixel, for which the optimal denoiser is known; seed 0; v-prediction with zero
terminal SNR, as in the default preset. Writes docs/results/reverse_timesteps.json.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path

import torch
from diffusers import DDIMScheduler

from nnunet_difflung.config import preset
from nnunet_difflung.generator.diffusion import forward_process, paint
from nnunet_difflung.runtime.environment import machine, versions
from nnunet_difflung.runtime.files import write_json

CONFIG, MEAN, SD = preset("default").generator, 0.1, 0.04
BARS = forward_process(CONFIG).alphas_cumprod


class Ideal:
    """E[x_0 | x_t] as a velocity, called like a network."""

    def __call__(self, x: torch.Tensor, t: torch.Tensor) -> Ideal:
        """x (n, c, h, w), t scalar."""
        x_t, bar = x[:, :1], BARS[t.long()].clamp(1e-10, 1 - 1e-10)
        x_0 = MEAN + bar.sqrt() * SD**2 / (bar * SD**2 + 1 - bar) * (x_t - bar.sqrt() * MEAN)
        noise = (x_t - bar.sqrt() * x_0) / (1 - bar).sqrt()
        self.sample = bar.sqrt() * noise - (1 - bar).sqrt() * x_0
        return self


def evenly(noise: torch.Tensor, steps: int) -> torch.Tensor:
    """diffusers' DDIM with trailing timesteps."""
    scheduler = DDIMScheduler(
        num_train_timesteps=CONFIG.train_timesteps,
        beta_schedule=CONFIG.noise_schedule,
        prediction_type=CONFIG.prediction,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        noise = scheduler.step(Ideal()(noise, t).sample, t, noise, use_clipped_model_output=True).prev_sample
    return noise


def main() -> None:
    """Measures both spacings and writes the result."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    noise = torch.randn(4, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    rows = []
    for steps in (25, 50, 150, 600, 1000):
        ours = paint(Ideal(), CONFIG, "ddim", steps, torch.zeros(4, 1, 64, 64), noise)
        for name, result in (("quadratic (ours)", ours), ("even (diffusers)", evenly(noise, steps))):
            rows.append(
                {
                    "timesteps": name,
                    "steps": steps,
                    "mean_error_hu": round(float(result.mean() - MEAN) * 1000, 1),
                    "sd_hu": round(float(result.std()) * 1000, 1),
                    "true_sd_hu": SD * 1000,
                }
            )
            print(rows[-1])
    write_json(
        Path(__file__).parent.parent / "docs" / "results" / "reverse_timesteps.json",
        {
            "meta": {
                "command": "python -m experiments.reverse_timesteps",
                "seed": 0,
                "versions": versions(),
                "date": datetime.date.today().isoformat(),
                "machine": machine(),
            },
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
