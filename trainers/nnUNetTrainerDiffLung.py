"""The trainer of this package: nnU-Net's, with Lookahead, a cyclic learning rate and fold-locked synthetic cases."""

from __future__ import annotations

import os
import random
from typing import ClassVar

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_difflung.trainers import case_record, synthetic_cases
from nnunet_difflung.trainers.lookahead import LookaheadSGD
from nnunet_difflung.trainers.schedule import IterationCyclicLR
from nnunet_difflung.trainers.training_cases import TrainingCases, check_cases, check_split

_CUDA = torch.device("cuda")


class nnUNetTrainerDiffLung(nnUNetTrainer):
    """nnU-Net on the real cases of a fold and on the synthetic ones painted for that fold with ``method``.

    Validation is always real. The optimizer is the one that the paper names for its segmentation networks
    (CyclicLR with exponential range, Lookahead around SGD); validation and checkpoints use the slow weights.

    ``DIFFLUNG_SEED`` (default 12345) fixes the initial weights and, with ``nnUNet_n_proc_DA=0`` on the CPU, the whole
    training, also across ``--c``. nnU-Net's worker processes for data augmentation (``nnUNet_n_proc_DA`` > 0) draw
    from the system's entropy, as they always do.

    On the CPU ``OMP_NUM_THREADS`` is respected; nnU-Net would use every core, and two trainings at the same time would
    take several times as long as one after the other.

    The trainer of another method's arm is a subclass with its ``method``; ``trainers/__init__.py`` makes one for each
    line of ``methods.METHODS``.
    """

    method: ClassVar[str] = "cbmat"  # the synthetic cases to train on, as the manifest names them
    use_synthetic: ClassVar[bool] = True
    cyclic: ClassVar[bool] = True  # Lookahead and CyclicLR; False: nnU-Net's own SGD and poly schedule
    epochs: ClassVar[int | None] = None  # None: nnU-Net's 1000
    peak: ClassVar[float] = 0.05  # highest learning rate; a triangle's mean is half of it, and Lookahead halves again
    epochs_per_cycle: ClassVar[int] = 10  # length of a learning rate triangle; at least two in a training
    trough_share: ClassVar[float] = 0.01  # lowest learning rate as a share of initial_lr, the highest
    end_envelope: ClassVar[float] = 0.5  # envelope of the peaks at the end of training, as a share of ``peak``

    def __init__(
        self, plans: dict, configuration: str, fold: int | str, dataset_json: dict, device: torch.device = _CUDA
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.cyclic:
            self.initial_lr = self.peak
        if device.type == "cpu" and os.environ.get("OMP_NUM_THREADS", "").isdigit():
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # nnU-Net has set it to all cores
        if self.epochs is not None:
            self.num_epochs = self.epochs
        self._cases: TrainingCases | None = None  # -> initialize

    # ---- optimizer, schedule, seeds ----

    def initialize(self) -> None:
        """Checks the cases, then builds the network from seeded weights, and leaves torch's random state as it was.

        nnU-Net calls it first in each of its ways: a new training, ``--c``, ``--val``, pretrained weights. Its
        augmentation workers inherit torch's random state; it must not be the same in every training.

        Raises:
            RuntimeError: the cases are not those that this arm may train on; one line that says what to do.
        """
        self._begin()
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(self._seed("weights"))
            super().initialize()

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """nnU-Net's SGD inside Lookahead, and the cyclic rate over the whole training (or nnU-Net's own pair)."""
        if not self.cyclic:
            return super().configure_optimizers()
        optimizer = LookaheadSGD(
            self.network.parameters(), self.initial_lr, momentum=0.99, nesterov=True, weight_decay=self.weight_decay
        )
        schedule = IterationCyclicLR(
            optimizer,
            peak=self.initial_lr,
            trough=self.trough_share * self.initial_lr,
            total=self.num_epochs * self.num_iterations_per_epoch,
            cycles=max(2, round(self.num_epochs / self.epochs_per_cycle)),
            end_envelope=self.end_envelope,
        )
        return optimizer, schedule

    def on_train_epoch_start(self) -> None:
        """Seeds the epoch; nnU-Net's part then logs the rate (and sets it, where it is not stepped per iteration)."""
        seed = self._seed(self.current_epoch)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        super().on_train_epoch_start()

    def train_step(self, batch: dict) -> dict:
        """nnU-Net's iteration, then one step of the cyclic learning rate."""
        outputs = super().train_step(batch)
        if self.cyclic:
            self.lr_scheduler.step()
        return outputs

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Puts the slow weights into the network before it is validated and saved."""
        if self.cyclic:
            self.optimizer.synchronise()
        super().on_train_epoch_end(train_outputs)

    def save_checkpoint(self, filename: str) -> None:
        """nnU-Net's checkpoint, renamed into place when complete, so that a kill leaves the previous one intact."""
        unfinished = f"{filename}.tmp"
        super().save_checkpoint(unfinished)
        if self.local_rank == 0 and not self.disable_checkpointing:
            os.replace(unfinished, filename)

    def load_checkpoint(self, filename_or_checkpoint: dict | str) -> None:
        """Loads nnU-Net's checkpoint; the cyclic learning rate resumes at its position.

        Raises:
            RuntimeError: it was trained or validated on other cases than those of this fold now.
        """
        super().load_checkpoint(filename_or_checkpoint)
        self._check_record()
        if self.cyclic:
            self.lr_scheduler.restore()

    def _seed(self, moment: int | str) -> int:
        """Seed of ``moment`` ("weights" or an epoch) for this fold and process, from DIFFLUNG_SEED; 63 bit."""
        key = f"{os.environ.get('DIFFLUNG_SEED', '12345')}/{self.fold}/{moment}/{self.local_rank}"
        return random.Random(key).getrandbits(63)

    # ---- which cases ----

    def do_split(self) -> tuple[list[str], list[str]]:
        """nnU-Net's split of the real cases; this arm's synthetic cases join the training cases, none the validation.

        The split file is read once, so that the validation at the end has the cases of the training's beginning.

        Returns:
            Case identifiers for training and for validation.

        Raises:
            RuntimeError: nnU-Net would draw folds of its own, over real and synthetic cases.
        """
        if self._cases is None:
            check_split(self)
            tr_keys, val_keys = super().do_split()
            manifest = synthetic_cases.manifest(self.plans_manager.dataset_name)
            self._cases = TrainingCases(
                synthetic_cases.real_only(tr_keys, manifest),
                synthetic_cases.of_arm(manifest, self.method, self.fold) if self.use_synthetic else [],
                synthetic_cases.real_only(val_keys, manifest),
            )
            self.print_to_log_file(
                f"{self.__class__.__name__}: {len(self._cases.real)} real and {len(self._cases.synthetic)} synthetic "
                f"training cases, {len(self._cases.validation)} real validation cases."
            )
        return self._cases.real + self._cases.synthetic, list(self._cases.validation)

    @classmethod
    def reference_name(cls) -> str:
        """The trainer of the real cases alone that differs from this one in nothing else."""
        arm = "nnUNetTrainerDiffLungReference" + ("" if cls.cyclic else "Poly")
        return arm if cls.epochs is None else f"{arm}_{cls.epochs}epoch{'s' if cls.epochs > 1 else ''}"

    def _begin(self) -> None:
        """Settles and checks the cases of this training, in its first process, and notes them for its checkpoints."""
        self.do_split()
        assert self._cases is not None
        if self.local_rank == 0:
            check_cases(self, self._cases)
            self.my_init_kwargs[case_record.KEY] = case_record.record_of(self.plans_manager.dataset_name, self._cases)
            self._warn_of_pretrained_weights(case_record.pretrained_file())

    def _check_record(self) -> None:
        """Compares the cases of the checkpoint just loaded with those of now."""
        if self.local_rank != 0 or self._cases is None:
            return
        now = case_record.record_of(self.plans_manager.dataset_name, self._cases)
        before = self.my_init_kwargs.get(case_record.KEY)
        self.my_init_kwargs[case_record.KEY] = now
        if before is None:
            self.print_to_log_file(
                "The checkpoint does not say which cases it was trained on (an earlier version wrote it), so they were "
                "not compared with those of now.",
                also_print_to_console=True,
            )
        elif changed := case_record.differences(before, now):
            raise RuntimeError(
                f"the checkpoint in {self.output_folder} was trained with other cases: {changed}. Train anew without "
                f"--c and --val, or restore the splits and cases that it was trained with"
            )

    def _warn_of_pretrained_weights(self, file: str | None) -> None:
        """Warns if pretrained weights come from a training on this fold's validation cases."""
        if file is None or not os.path.isfile(file) or self._cases is None:
            return
        arguments = torch.load(file, map_location="cpu", weights_only=False, mmap=True).get("init_args") or {}
        record = arguments.get(case_record.KEY)
        if record is None:
            text = f"{file} does not say which cases it was trained on; they may include validation cases of this fold"
        else:
            names = case_record.taught(record, self._cases.validation)
            if not names:
                return
            text = (
                f"{file} was trained on {len(names)} of the {len(self._cases.validation)} validation cases of this "
                f"fold (first: {names[0]}), so this training cannot be validated on them"
            )
        self.print_to_log_file(f"WARNING: {text}.", also_print_to_console=True)


class nnUNetTrainerDiffLungReference(nnUNetTrainerDiffLung):
    """The paper's ref-UNet: the same network, optimizer, schedule and validation, real cases only."""

    use_synthetic = False


class nnUNetTrainerDiffLungPoly(nnUNetTrainerDiffLung):
    """The cases of nnUNetTrainerDiffLung with nnU-Net's own optimizer and schedule: what the cases do alone."""

    cyclic = False


class nnUNetTrainerDiffLungReferencePoly(nnUNetTrainerDiffLungReference):
    """The reference with nnU-Net's own optimizer and schedule: what Lookahead and CyclicLR do alone."""

    cyclic = False
