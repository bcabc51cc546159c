"""Progress of a generator's training for people: bar, log, loss curve, sample sheets. Does not affect the training."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from nnunet_difflung.config import GeneratorConfig, SamplingConfig
from nnunet_difflung.generator.along_z import correlation
from nnunet_difflung.generator.batches import BatchSource
from nnunet_difflung.generator.checkpoint import TrainingState
from nnunet_difflung.generator.encoding import denormalise, grow
from nnunet_difflung.generator.families import trained_family_of
from nnunet_difflung.generator.sampling import SliceInputs, paint_slices
from nnunet_difflung.generator.trained import Generator
from nnunet_difflung.methods import Method
from nnunet_difflung.runtime.figures import (
    LINE_COLOURS,
    bare,
    display_window,
    drawing,
    legend,
    show_classes,
    show_grey,
)
from nnunet_difflung.runtime.files import write_bytes
from nnunet_difflung.runtime.messages import warn

LOG = "training_log.jsonl"
_SHEETS = (0.1, 0.25, 0.5, 0.75, 1.0)  # shares of the training after which a sheet is drawn
_SHEET_STEPS = 20


class TrainingReport:
    """Writes ``training_log.jsonl``, ``progress.png`` and ``samples/step_*.png`` into a generator's folder.

    Args:
        folder: folder of the generator.
        total: number of steps of the whole training.
        method: method that the generator belongs to.
        config: configuration of the generator.
        visible: show a progress bar and draw pictures.
        writes: whether this process writes the files.
        least: minimum number of steps between rows of the log.
    """

    def __init__(
        self,
        folder: Path,
        total: int,
        method: Method,
        config: GeneratorConfig,
        visible: bool,
        writes: bool = True,
        least: int = 1,
    ):
        self.folder, self.total, self.visible, self.writes = folder, total, visible, writes
        self.method, self.config = method, config
        self.every = max(least, total // 400)
        self.begun = time.monotonic()
        self.sheets = {max(1, round(part * total)) for part in _SHEETS}
        self.rows: list[dict] = []
        self.warned = False

    def say(self, line: str) -> None:
        """Prints a line without breaking the bar."""
        tqdm.write(line)

    def resume(self, step: int) -> None:
        """Keeps the log's rows up to a step; later rows will be written again."""
        path = self.folder / LOG
        if path.is_file():
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
            self.rows = [row for row in rows if row["step"] <= step]
            self.begun -= self.rows[-1].get("seconds", 0) if self.rows else 0

    def due(self, state: TrainingState) -> bool:
        """Whether a row of the log or a sheet is due at this step, so that the losses have to be read."""
        return state.step % self.every == 0 or state.step in self.sheets

    def after_steps(self, steps: int, state: TrainingState, bar: tqdm, source: BatchSource) -> None:
        """Call this when the losses of ``steps`` more steps have been read, and whenever the report is due."""
        bar.update(steps)
        first = self.writes and self.visible and state.step in self.sheets and not self.rows  # for the curve
        if state.step % self.every == 0 or state.step == self.total or first:
            row = {
                "step": state.step,
                "loss": float(np.mean(state.pending_losses)),
                "lr": state.optimizer.param_groups[0]["lr"],
                "seconds": round(time.monotonic() - self.begun, 3),
            }
            state.pending_losses = []
            self.rows.append(row)
            rate = bar.format_dict["rate"]  # None at first
            speed = f", {rate * self.config.batch_size:.0f} images/s" if rate else ""
            bar.set_postfix_str(f"loss {row['loss']:.4f}{speed}", refresh=False)
            if self.writes:
                write_bytes(self.folder / LOG, "".join(json.dumps(row) + "\n" for row in self.rows).encode())
        if self.writes and self.visible and state.step in self.sheets:
            self._draw(state, source)

    def _draw(self, state: TrainingState, source: BatchSource) -> None:
        """Draws the pictures. The training does not need them, so it goes on whatever is wrong with them."""
        try:
            self._draw_curve()
            self._draw_sheet(state, source)
        except Exception as error:  # of the network, the memory, the disk or the fonts
            if self.warned:
                return
            self.warned = True
            reason = (str(error).strip() or "no reason given").splitlines()[0][:160]
            with tqdm.external_write_mode(sys.stderr):
                warn(
                    f"progress.png or samples in {self.folder} could not be drawn at step {state.step} "
                    f"({type(error).__name__}: {reason}); the training does not need them and goes on"
                )

    def _draw_curve(self) -> None:
        steps, losses = [row["step"] for row in self.rows], [row["loss"] for row in self.rows]
        width = max(1, len(losses) // 20)
        with drawing(self.folder / "progress.png", 7, 4) as figure:
            axes = figure.subplots()
            axes.plot(steps, losses, color=LINE_COLOURS[0], alpha=0.35, label="loss")
            mean = np.convolve(losses, np.ones(width) / width, "valid")
            axes.plot(steps[width - 1 :], mean, color=LINE_COLOURS[1], label="moving mean")
            axes.set(xlabel="training step", xlim=(0, self.total), **trained_family_of(self.method).loss_axis)
            axes.legend()

    def _draw_sheet(self, state: TrainingState, source: BatchSource) -> None:
        """Draws for each pathology a real training slice, its mask, and the slice painted with the averaged weights."""
        examples = [_example(source, name, self.config) for name in source.present]
        if not examples:
            return
        painted = [self._paint(state, example, source) for example in examples]
        window, classes = display_window(self.config.windows[0]), source.cache.roles.condition_classes
        path = self.folder / "samples" / f"step_{state.step:07d}.png"
        with drawing(path, 6.6, 2.3 * len(examples) + 0.5) as figure:
            rows = figure.subplots(len(examples), 3, squeeze=False)
            for name, axes, example, synthetic in zip(source.present, rows, examples, painted, strict=True):
                show_grey(axes[0], denormalise(example.images[example.own][:1], self.config.windows[:1])[0], window)
                show_classes(axes[1], example.conditions[example.own], classes)
                show_grey(axes[2], denormalise(synthetic[:1], self.config.windows[:1])[0], window)
                for axis, title in zip(axes, ("real", f"mask with {name}", f"painted, step {state.step}"), strict=True):
                    bare(axis, title, 8)
            legend(figure, classes)

    def _paint(self, state: TrainingState, example: _Example, source: BatchSource) -> np.ndarray:
        """(c, y, x) the example's own slice, painted; in volumes together with those beside it."""
        number, *edges = example.conditions.shape
        shape = source.encoding.grown(tuple(edges))
        noise = torch.randn(
            number, len(self.config.windows), *shape, generator=torch.Generator().manual_seed(0)
        )  # independent noise does for a look
        stack = []
        for n, condition in enumerate(example.conditions):
            inputs = SliceInputs(source.encoding.masks(condition, shape), noise[n].numpy(), n)
            if not trained_family_of(self.method).paints_whole_slices:  # then only the slice's lesions are painted
                known = ~np.isin(grow(condition, shape), source.pathologies)[None]
                image = grow(example.images[n], shape, -1)
                inputs = replace(inputs, known=image, is_known=known, shared=example.shared)
            stack.append(inputs)
        parameters = list(state.network.parameters())
        state.ema.store(parameters)
        try:
            state.ema.copy_to(parameters)
            state.network.eval()
            generator = Generator(state.network, self.config, source.cache.roles.conditions, (), "", self.folder)
            sampling = SamplingConfig(steps=_SHEET_STEPS)
            stacks = [number] if self.config.neighbours else None
            painted = paint_slices(self.method, generator, sampling, stack, parameters[0].device, stacks)
            return painted[example.own][:, : edges[0], : edges[1]]
        finally:
            state.ema.restore(parameters)
            state.network.train()


@dataclass(frozen=True)
class _Example:
    """A training slice and, in volumes, those beside it.

    Attributes:
        images: (s, c, y, x) in [−1, 1].
        conditions: (s, y, x) condition maps.
        own: index of the slice.
        shared: share of the noise that neighbouring slices have in common.
    """

    images: np.ndarray
    conditions: np.ndarray
    own: int
    shared: float


def _example(source: BatchSource, pathology: str, config: GeneratorConfig) -> _Example:
    """The training slice with most voxels of a pathology."""
    holding = source.index.holding[pathology]
    voxels = [source.cache.facts[source.index.cases[i]].counts[pathology][source.index.z[i]] for i in holding]
    number = int(holding[int(np.argmax(voxels))])
    case, z = source.index.cases[number], int(source.index.z[number])
    facts, reach = source.cache.facts[case], config.neighbours or 0
    slices = range(max(0, z - reach), min(facts.shape[0], z + reach + 1))
    conditions = np.asarray(source.cache.condition(case)[slices[0] : slices[-1] + 1])
    images = np.asarray(source.cache.image(case)[:, slices[0] : slices[-1] + 1])
    encoded = [source.encoding.image(images[:, n], part, facts.shape[1:]) for n, part in enumerate(conditions)]
    shared = correlation(facts.spacing[0], config.correlation_mm) if config.correlation_mm else 0.0
    return _Example(np.stack(encoded), conditions, slices.index(z), shared)
