"""The variants of ``ablations.py`` and the settings of the ``fast`` preset that each of them changes."""

from __future__ import annotations

BASE = {"balance": {"target_share": {"emphysema": 0.1}, "max_synthetic": 72}}
HALF = {"epochs": 60}  # half of the preset's training; these variants are compared with "half training"
VARIANTS: dict[str, dict] = {
    "real only": {},
    "default (cbmat, composite)": BASE,
    "copy_paste": {**BASE, "generator": {"method": "copy_paste"}},
    "harmonise 0.3": {**BASE, "generator": {"method": "harmonise"}, "sampling": {"strength": 0.3}},
    "harmonise 0.6": {**BASE, "generator": {"method": "harmonise"}, "sampling": {"strength": 0.6}},
    "margin 0": {**BASE, "sampling": {"margin": 0}},
    "margin 1": {**BASE, "sampling": {"margin": 1}},
    "margin 3": {**BASE, "sampling": {"margin": 3}},
    "whole slices (full)": {**BASE, "sampling": {"paint": "full"}},
    "steps 10": {**BASE, "sampling": {"steps": 10}},
    "steps 50": {**BASE, "sampling": {"steps": 50}},
    "steps 250": {**BASE, "sampling": {"steps": 250}},
    "ddpm 50": {**BASE, "sampling": {"steps": 50, "sampler": "ddpm"}},
    "dpm 20": {**BASE, "sampling": {"steps": 20, "sampler": "dpm"}},
    "bf16 painting": {**BASE, "sampling": {"precision": "bf16"}},
    "no gate": {**BASE, "sampling": {"gate": "off"}},
    "steps 20": {**BASE, "sampling": {"steps": 20}},
    "steps 1000": {**BASE, "sampling": {"steps": 1000}},
    "crops of 32": {**BASE, "generator": {"patch_size": 32}},
    "epochs 20": {**BASE, "generator": {"epochs": 20}},
    "epochs 360": {**BASE, "generator": {"epochs": 360}},
    "half training": {**BASE, "generator": HALF},
    "half, mat": {**BASE, "generator": {**HALF, "method": "mat"}},
    "half, no ablation": {**BASE, "generator": {**HALF, "method": "none"}},
    "half, Eq. 8": {**BASE, "generator": {**HALF, "ablation_probability": "eq8"}},
    "half, no annealing": {**BASE, "generator": {**HALF, "annealing": "none"}},
    "half, Eq. 8, no annealing": {**BASE, "generator": {**HALF, "ablation_probability": "eq8", "annealing": "none"}},
    "half, uniform drawing": {**BASE, "generator": {**HALF, "balanced_share": 0.0}},
    "half, drawing 0.45": {**BASE, "generator": {**HALF, "balanced_share": 0.45}},
    "half, uniform drawing, Eq. 8": {
        **BASE,
        "generator": {**HALF, "balanced_share": 0.0, "ablation_probability": "eq8"},
    },
    "half, uniform timesteps": {**BASE, "generator": {**HALF, "timestep_power": 1.0}},
    "half, epsilon": {**BASE, "generator": {**HALF, "prediction": "epsilon", "zero_terminal_snr": False}},
    "dose 0.25": {"balance": {"target_share": {"emphysema": 0.1}, "max_synthetic": 9}},
    "dose 1 (paper)": {"balance": {"target_share": {"emphysema": 0.1}, "max_synthetic": 36}},
    "dose 4": {"balance": {"target_share": {"emphysema": 0.1}, "max_synthetic": 144}},
    "target 0.03": {"balance": {"target_share": {"emphysema": 0.03}, "max_synthetic": 72}},
    "target 0.06": {"balance": {"target_share": {"emphysema": 0.06}, "max_synthetic": 72}},
    "target 0.20": {"balance": {"target_share": {"emphysema": 0.2}, "max_synthetic": 72}},
    "copy_paste, dose 4": {
        "balance": {"target_share": {"emphysema": 0.1}, "max_synthetic": 144},
        "generator": {"method": "copy_paste"},
    },
}
