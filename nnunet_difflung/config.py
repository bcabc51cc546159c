"""The settings of a run, which are recorded as JSON with its results, and the presets of the command line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

ABLATION_READINGS = ("eq8", "text")
ANNEALINGS = ("cosine", "none")
ABLATED_CLASSES = ("pathologies", "all")
SAMPLERS = ("ddim", "dpm", "unipc", "ddpm")
CT_WINDOW = (-1000.0, 1000.0)  # HU; paper, section 3.2
METHOD, PAPERS_METHOD = "difflung", "cbmat"  # of the presets; preset paper has the paper's
_UNTRAINED = "copy_paste"  # the method without a network, for which there are no training crops
PRESETS = ("default", "fast", "paper")
PRECISIONS = ("fp32", "bf16")
_PARTS = ("generator", "sampling", "balance")
PLACEMENTS = ("real", "uniform")
HOSTS = ("alike", "any")
ORDERS = ("deficit", "frequency")
LEVELS = ("host", "donor")
STYLES = ("drawn", "real")
EDGES = ("faded", "painted")
SELECTIONS = ("hard", "easy", "random")
BOX = 40.0  # mm around what is painted, of --box without a number: about half of nnU-Net's usual patches
TARGET_MULTIPLE = 4.0  # three painted voxels for each real one
_EARLIER: dict[str, dict[str, Any]] = {
    "generator": {"ablated_classes": "pathologies", "neighbours": None, "correlation_mm": None},
    "sampling": {
        "resamplings": 1,
        "candidates": 1,
        "selection": "hard",
        "level": "donor",
        "styles": "real",
        "edge": "painted",
        "box": None,
        "exclude": [],
    },
    "balance": {
        "placement": "uniform",
        "target_multiple": None,
        "placebo": 0.0,
        "hosts": "any",
        "order": "deficit",
        "fibrosis_share": None,
    },
}
"""Settings that earlier versions did not record, with the values by which they worked."""


@dataclass(frozen=True)
class GeneratorConfig:
    """All settings that determine a generator's weights; the training cases determine the rest.

    Attributes:
        ablation_probability: reading of Eq. 8: ``eq8`` P = 1 − f, or ``text`` P ∝ f.
        delta_0: initial ablation probability δ0 of Algorithm 1, 0 to 1.
        ablated_classes: whose masks are ablated: ``pathologies``, or ``all`` mask classes, of which ``cbmat`` spares
            those that surround the lung (Algorithm 1, line 5) and ``mat`` none.
        annealing: how ``cbmat``'s ablation ends: ``cosine`` (Eq. 9) or ``none`` (it lasts until the end).
        prediction: what the network predicts, ``epsilon`` (Eq. 7) or ``v_prediction``.
        zero_terminal_snr: rescale the noise schedule so that its last step is pure noise (v-prediction only).
        noise_schedule: diffusers' name of the β schedule of Eq. 1.
        train_timesteps: T of Eq. 2.
        timestep_power: training draws t = u^p · T with u uniform; 1 is the paper's, 2 has the density of the quadratic
            timesteps of sampling, so that the network learns the texture as well as the outline.
        channels: feature channels of each resolution level of the U-Net.
        layers_per_block: residual blocks in each level.
        attention: self-attention at the second-lowest level and in the middle.
        patch_size: edge of the training crops in pixels; 0 trains on whole slices.
        batch_size: slices in a training step, over all processes.
        epochs: passes over as many slices as the fold's training cases hold.
        learning_rate: peak of AdamW's cosine schedule.
        warmup_steps: steps of linear warm-up.
        ema_decay: upper bound of the decay of the averaged weights, which sampling uses.
        balanced_share: share of each batch drawn for each pathology, 0.9 for all of them at most; 0 draws slices
            uniformly.
        windows: for each channel the (low, high) intensities mapped to [−1, 1]; empty: [−1000, 1000] HU for CT, else
            percentiles of the fold's training cases (``generator.encoding.intensity_windows``).
        flip: mirror crops left-right at random.
        seed: of initial weights, batches, noise and ablation.
        precision: ``fp32`` or ``bf16`` (torch's autocast); recorded, and not compared (``identity``).
        l1_weight: of the L1 term of ``pix2pix`` against its adversarial term.
        feature_weight: of the feature matching term of ``spade`` against its adversarial term.
        discriminator_channels: features of the first layer of the GANs' discriminators.
        neighbours: slices on each side, noised alike, that a network of volumes sees beside the one it paints; 0: none;
            None: 1 where method and cases allow it. In a generator's card 1, or None for none.
        correlation_mm: length over which a voxel of a lesion resembles those above and below it, which the noise of
            neighbouring slices shares; measured in the fold's training cases. None without neighbours.
    """

    ablation_probability: str = "text"
    delta_0: float = 1.0
    ablated_classes: str = "pathologies"
    annealing: str = "cosine"
    prediction: str = "v_prediction"
    zero_terminal_snr: bool = True
    noise_schedule: str = "linear"
    train_timesteps: int = 1000
    timestep_power: float = 2.0
    channels: tuple[int, ...] = (32, 64, 128, 128)
    layers_per_block: int = 2
    attention: bool = False
    patch_size: int = 192
    batch_size: int = 16
    epochs: int = 200
    learning_rate: float = 5e-4
    warmup_steps: int = 200
    ema_decay: float = 0.999
    balanced_share: float = 0.3
    windows: tuple[tuple[float, float], ...] = ()
    flip: bool = True
    seed: int = 12345
    precision: str = "fp32"
    l1_weight: float = 100.0
    feature_weight: float = 10.0
    discriminator_channels: int = 64
    neighbours: int | None = None
    correlation_mm: float | None = None


@dataclass(frozen=True)
class SamplingConfig:
    """How masks are painted.

    Attributes:
        sampler: ``ddim``, ``dpm`` (DPM-Solver++), ``unipc`` or ``ddpm``.
        steps: reverse steps.
        paint: ``composite`` denoises only the changed region, ``full`` the whole isolated slice (the paper).
        margin: pixels around a changed region that are painted along with it (composite).
        context: pixels around the painted region that the network sees (composite).
        gate: ``drop``, ``report`` or ``off``.
        memorised: ``report`` how similar painted lesions are to training slices, ``drop`` cases with a lesion that is
            more similar to one than 99 % of real lesions are to slices of other patients, or ``off``.
        repaints: how often a case that would be dropped is painted again.
        batch_size: slices painted at once.
        precision: of the network while painting, ``fp32`` or ``bf16``; the reverse process itself is always fp32.
        strength: noise level from which ``harmonise`` starts, as a share of the training timesteps.
        resamplings: how often each reverse step is done, with fresh noise in between (RePaint); 1 is once.
        candidates: how often each case is painted; the fold's own segmenter selects one (1: no selection).
        selection: which of the candidates is kept: ``hard``, the one that the segmenter recognises least, ``easy``, or
            ``random``, a control that shows what the preference is worth.
        level: mean intensity of a lesion painted by ``difflung``: ``host``: it follows the normal lung around its place
            as far as that of the class's real lesions does; ``donor``: that of the real lesion whose outline it has.
        styles: ``real``: a lesion painted by ``difflung`` has mean and spread of that real lesion; ``drawn``: they are
            drawn around these, within the range of the class's real lesions.
        edge: ``faded``: what ``difflung`` paints is faded over the margin into the normal lung that was there;
            ``painted``: it ends where the painted region ends.
        box: synthetic volumes are written as the box of what is painted with so many mm of their host around it; None:
            as whole volumes.
        exclude: ids of synthetic cases that a reader has refused; they are painted, and not kept.
    """

    sampler: str = "ddim"
    steps: int = 25
    paint: str = "composite"
    margin: int = 3
    context: int = 32
    gate: str = "drop"
    memorised: str = "report"
    repaints: int = 3
    batch_size: int = 8
    precision: str = "fp32"
    strength: float = 0.5
    resamplings: int = 1
    candidates: int = 1
    selection: str = "hard"
    level: str = "donor"
    styles: str = "real"
    edge: str = "painted"
    box: float | None = None
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class BalanceConfig:
    """Which masks are made.

    Attributes:
        target_share: pathology → target as a share of the lung voxels; other pathologies have ``default_share``.
        default_share: 0.06, the paper's share of emphysema after augmentation.
        target_multiple: target of pathologies without an own one, as a multiple of their share in the fold's training
            cases, at most their share of the slices that hold them; None: ``default_share`` for all of them.
        max_synthetic: maximum number of slices painted with new lesions; None: ``max_ratio`` times the number of the
            fold's real slices.
        max_ratio: painted slices for each real one; 534 / 2076 in the paper, rounded to a quarter.
        seed: of the choice of lesions, hosts and places, and of the noise from which each case is painted.
        placement: ``real``: places, sizes, amount and number of lesions follow the fold's real cases; ``uniform``:
            places are drawn uniformly over normal lung, as in the paper.
        placebo: share of the synthetic cases whose regions are repainted as the normal lung that they were; these cases
            come on top of ``max_synthetic``.
        hosts: the real cases that lesions are painted into: ``alike``: their other pathologies are like those of the
            fold's real cases with the class; ``any``: all of them take turns.
        order: which pathology below its target gets lesions first: ``deficit``: the one furthest below it, relative to
            it; ``frequency``: the least frequent one, as in the paper.
        fibrosis_share: target of the class whose name says fibrosis or interstitial lung disease, unless
            ``target_share`` has it or there are several; None: as of the other classes.
    """

    target_share: dict[str, float] = field(default_factory=dict)
    default_share: float = 0.06
    target_multiple: float | None = None
    max_synthetic: int | None = None
    max_ratio: float = 0.25
    seed: int = 12345
    placement: str = "uniform"
    placebo: float = 0.0
    hosts: str = "any"
    order: str = "deficit"
    fibrosis_share: float | None = None


@dataclass(frozen=True)
class Settings:
    """The settings of a run of ``difflung_augment`` for one method.

    Attributes:
        generator: of the network that paints.
        sampling: how it paints.
        balance: what it paints.
        preset: the preset whose values they have unless others were given.
        method: a name in ``methods.METHODS``.
    """

    generator: GeneratorConfig
    sampling: SamplingConfig
    balance: BalanceConfig
    preset: str = "default"
    method: str = METHOD

    def as_dict(self) -> dict:
        """Plain JSON content, as manifests record it: the method is the first entry of ``generator``."""
        content = {
            "generator": recorded(self.method, self.generator),
            "sampling": asdict(self.sampling),
            "balance": asdict(self.balance),
            "preset": self.preset,
        }
        return json.loads(json.dumps(content))

    def identity(self) -> dict:
        """What makes these settings the same as others; see ``identity``."""
        return identity(self.as_dict())

    def painted_identity(self) -> dict:
        """What decides how each case is painted, and so its id: the identity without the cases that are not kept.

        Settings without effect are in it as they are, since they name what earlier versions have painted.
        """
        return _identity(replace(self, sampling=replace(self.sampling, exclude=())).as_dict())

    def hash(self) -> str:
        """Short hash of what decides how each case is painted."""
        return _short_hash(self.painted_identity())

    def former_hashes(self) -> tuple[str, ...]:
        """Hashes by which earlier versions named what was made with these settings: one for each precision."""
        content, hashes = replace(self, sampling=replace(self.sampling, exclude=())).as_dict(), []
        for precision in PRECISIONS:
            parts = {part: {**content[part], "precision": precision} for part in ("generator", "sampling")}
            hashes.append(_short_hash(_without_earlier({**content, **parts})))
        return tuple(hashes)


def identity(settings: Any) -> Any:
    """What decides which cases are made, of settings as a manifest records them (``Settings.as_dict``).

    These are all settings of the generator (``generator_identity``), of sampling and of balance, but for what is only
    recorded: the precision that suits a device, how many slices are painted at once, and the name of the preset, whose
    values are there themselves. That gets its default. Settings that an earlier version did not record are left out if
    they have the value by which it worked. Device, processes and progress are no settings.

    Returns:
        Content that is equal for the same settings; what are no settings comes back as it is.
    """
    if not isinstance(settings, dict) or not all(isinstance(settings.get(part), dict) for part in _PARTS):
        return settings
    content = _identity(settings)
    if content["sampling"].get("paint") == "full":  # the whole slice is painted
        content["sampling"]["margin"] = SamplingConfig.margin
    if content["generator"].get("method") == _UNTRAINED:
        content["generator"]["patch_size"] = GeneratorConfig.patch_size
    return content


def _identity(settings: dict) -> dict:
    sampling, default = settings["sampling"], SamplingConfig()
    content = {
        **settings,
        "generator": generator_identity(settings["generator"]),
        "sampling": {**sampling, "precision": default.precision, "batch_size": default.batch_size},
        "preset": Settings.preset,
    }
    return _without_earlier(content)


def generator_identity(config: dict) -> dict:
    """What decides a generator's weights beside its training cases, of ``recorded`` settings: all but the precision."""
    return {**_unlike(_EARLIER["generator"], config), "precision": GeneratorConfig.precision}


def _without_earlier(settings: dict) -> dict:
    """Leaves out what earlier versions did not record if it has the value by which they worked."""
    return {**settings, **{part: _unlike(earlier, settings[part]) for part, earlier in _EARLIER.items()}}


def completed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Recorded settings with those that an earlier version did not record, at the values by which it worked."""
    return {**settings, **{part: {**earlier, **settings[part]} for part, earlier in _EARLIER.items()}}


def _unlike(earlier: dict, values: dict) -> dict:
    return {key: value for key, value in values.items() if key not in earlier or value != earlier[key]}


def differences(earlier: Any, now: dict) -> list[str]:
    """The settings in which two identities (or parts of them) differ, with the earlier and the present value."""
    if not isinstance(earlier, dict):
        return []
    lines, left_out = [], {key: value for part in _EARLIER.values() for key, value in part.items()}
    for key in [*now, *(key for key in earlier if key not in now and key in left_out)]:
        before, value = (content.get(key, left_out.get(key)) for content in (earlier, now))
        if key in _PARTS:
            lines += differences(before, value or {})
        elif before != value:
            lines.append(f"{key} was {before}, is now {value}")
    return lines


def _short_hash(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def recorded(method: str, config: GeneratorConfig) -> dict:
    """A generator's settings as manifests and generators' cards record them, with their method as first entry."""
    return {"method": method, **asdict(config)}


def preset(name: str) -> Settings:
    """Settings by name.

    ``default``: v-prediction with zero terminal SNR, 25 DDIM steps, class-balanced batches, composite painting; chosen
    for true HU and speed on one GPU. Its network of 5.9 M parameters paints HU and texture as well as one of 24 M or
    ``paper``'s after as many steps, on the phantom at 64² (docs/performance.md). ``fast``: the same with a network of
    0.3 M parameters, for a CPU and small images.
    In both, lesions lie where real ones lie and beside what lies beside real ones, are as bright and as rough as real
    ones in such lung or between them, and the target is four times a class's share of the training cases.
    ``paper``: Diff-Lung as published: method ``cbmat``, ε-prediction, Eq. 8 for normal lung too, 1000 DDIM steps, 400
    epochs, whole isolated slices drawn uniformly, lesions anywhere in the lung of any case, the least frequent class
    first, 22 % of the lung for fibrosis and 6 % for each other class, and a gate that only reports. docs/method.md says
    where it differs.
    """
    balance = BalanceConfig(placement="real", target_multiple=TARGET_MULTIPLE, hosts="alike")
    base = Settings(GeneratorConfig(), SamplingConfig(level="host", styles="drawn", edge="faded"), balance)
    if name == "default":
        return base
    if name == "fast":
        generator = replace(
            base.generator,
            channels=(16, 32, 32),
            layers_per_block=1,
            patch_size=64,
            batch_size=12,
            epochs=120,
            learning_rate=2e-3,
            warmup_steps=50,
            ema_decay=0.995,
            discriminator_channels=32,
        )
        return Settings(generator, replace(base.sampling, context=16, margin=1), base.balance, name)
    if name == "paper":
        generator = replace(
            base.generator,
            ablation_probability="eq8",
            ablated_classes="all",
            prediction="epsilon",
            zero_terminal_snr=False,
            timestep_power=1.0,
            channels=(128, 128, 256, 256, 512, 512),
            attention=True,
            patch_size=0,
            epochs=400,
            learning_rate=1e-4,
            warmup_steps=500,
            ema_decay=0.9999,
            balanced_share=0.0,
            flip=False,
        )
        sampling = SamplingConfig(steps=1000, paint="full", gate="report")
        balance = BalanceConfig(order="frequency", fibrosis_share=0.22)
        return Settings(generator, sampling, balance, name, PAPERS_METHOD)
    raise ValueError(f"unknown preset {name!r}; expected default, fast or paper")
