"""The learning rate: triangles under a falling exponential, one step per iteration."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR


class IterationCyclicLR(CyclicLR):
    """CyclicLR ``exp_range`` over a whole training, resumable from the optimizer's state alone.

    Smith: Cyclical Learning Rates for Training Neural Networks, WACV 2017. The rate rises and falls ``cycles`` times
    between ``trough`` and ``peak`` × envelope; the envelope falls from 1 to ``end_envelope`` and the training ends in
    a trough. Momentum is left alone.

    nnU-Net calls ``step(epoch)`` at the beginning of each epoch and saves no scheduler. So a step with an argument is
    ignored here (the trainer steps after each iteration), and the count lives in
    ``optimizer.param_groups[i]["schedule_step"]``, from where ``restore`` reads it.

    Args:
        optimizer: its groups' learning rates are driven.
        peak: highest learning rate, > 0.
        total: iterations of the whole training, >= 1.
        cycles: number of triangles, >= 1.
        trough: lowest learning rate, in the unit of ``peak``.
        end_envelope: envelope at the end of training, in (0, 1].
    """

    def __init__(
        self, optimizer: Optimizer, peak: float, total: int, cycles: int, trough: float, end_envelope: float = 0.01
    ) -> None:
        super().__init__(
            optimizer,
            base_lr=trough,
            max_lr=peak,
            step_size_up=total / (2 * cycles),  # type: ignore[arg-type]  # annotated as int, but any number works
            mode="exp_range",
            gamma=end_envelope ** (1 / total),
            cycle_momentum=False,
        )

    def step(self, epoch: int | None = None) -> None:
        """Advances by one iteration; a call with an epoch is nnU-Net's and does nothing."""
        if epoch is not None:
            return
        super().step()
        for group in self.optimizer.param_groups:
            group["schedule_step"] = self.last_epoch

    def restore(self) -> None:
        """Resumes at the position that ``optimizer.load_state_dict`` has just loaded.

        Raises:
            RuntimeError: the checkpoint was written by a trainer without this schedule.
        """
        group = self.optimizer.param_groups[0]
        if "schedule_step" not in group:
            raise RuntimeError(
                "the checkpoint holds no position of the cyclic learning rate, so it was not written by "
                "nnUNetTrainerDiffLung or one of its variants; start a new training"
            )
        self.last_epoch = group["schedule_step"]
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
