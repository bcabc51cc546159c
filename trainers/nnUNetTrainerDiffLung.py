"""The trainer of this package: nnU-Net's, with Lookahead, a cyclic learning rate and fold-locked synthetic cases."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_difflung.audit.pretrained import PRETRAINED, seen, taught_by
from nnunet_difflung.config import METHOD, PAPERS_METHOD
from nnunet_difflung.injection.leaks import first_names
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import VALIDATED
from nnunet_difflung.runtime.files import write_json
from nnunet_difflung.runtime.wording import counted, quoted
from nnunet_difflung.trainers import case_record, synthetic_cases
from nnunet_difflung.trainers.dose import BY_CASES, SHARE, Dose, as_variables, dose_of
from nnunet_difflung.trainers.loader import DRAWN, Mixture, mixed_training
from nnunet_difflung.trainers.lookahead import LookaheadSGD
from nnunet_difflung.trainers.sampling import CROPPING, Rule, painted
from nnunet_difflung.trainers.schedule import IterationCyclicLR
from nnunet_difflung.trainers.training_cases import TrainingCases, check_cases, check_split, known_patients

_CUDA = torch.device("cuda")
LENGTHS = (1, 5, 10, 20, 100, 250)  # epochs in which each arm exists beside nnU-Net's 1000; -> __init__.py
SEED = "DIFFLUNG_SEED"
_CHECKED = "difflung_checked"  # key in the store of a training on several GPUs


class nnUNetTrainerDiffLung(nnUNetTrainer):
    """nnU-Net on the real cases of a fold and on the synthetic ones painted for that fold with ``method``.

    Validation is always real. The optimizer is the one that the paper names for its segmentation networks
    (CyclicLR with exponential range, Lookahead around SGD); validation and checkpoints use the slow weights.

    ``DIFFLUNG_SEED`` (default 12345) fixes the initial weights and, with ``nnUNet_n_proc_DA=0`` on the CPU, the whole
    training, also across ``--c``, which refuses another seed. nnU-Net's worker processes for data augmentation
    (``nnUNet_n_proc_DA`` > 0) draw from the system's entropy, as they always do.

    On the CPU ``OMP_NUM_THREADS`` is respected; nnU-Net would use every core, and two trainings at the same time would
    take several times as long as one after the other.

    ``DIFFLUNG_SYNTHETIC_SHARE`` (0 to 1, or ``cases``) is the expected share of synthetic patches in training: patches
    of the slices that were painted, each slice as likely as another. With ``cases`` nnU-Net draws real and synthetic
    cases alike, so that their number decides, and in volumes mostly gets slices that are copies of the host's. With
    ``DIFFLUNG_SYNTHETIC_SCHEDULE=falling`` the share falls from twice its value to 0 in the last epoch.

    Where a fold has no case of ``method`` but cases of one that ``otherwise`` names, it trains on those and says so:
    before ``difflung`` was the default, this trainer was that of ``cbmat``, and what was begun so goes on.

    The trainer of another method's arm is a subclass with its ``method``; ``trainers/__init__.py`` makes one for each
    line of ``methods.METHODS``.
    """

    seed: str = ""  # in debug.json: DIFFLUNG_SEED; -> initialize
    real_cases: str = ""  # in debug.json: which real cases the training and its validation have; -> initialize
    pretrained: str = "none"  # in debug.json: what pretrained weights have seen; also unseen, unknown, …
    method: str = METHOD  # whose synthetic cases to train on, as the manifest names it; in debug.json: was trained on
    otherwise: ClassVar[tuple[str, ...]] = (PAPERS_METHOD,)  # methods that take its place in a fold without its cases
    use_synthetic: ClassVar[bool] = True
    synthetic_share: ClassVar[float | None] = None  # where DIFFLUNG_SYNTHETIC_SHARE is not set; None: as ``cases``
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
        threads = os.environ.get("OMP_NUM_THREADS", "")
        if device.type == "cpu" and threads.isdecimal() and int(threads) > 0:
            torch.set_num_threads(int(threads))  # nnU-Net has set it to all cores
        if self.epochs is not None:
            self.num_epochs = self.epochs
        self._cases: TrainingCases | None = None  # -> initialize
        self._loaded = ""  # name of the checkpoint whose weights these are; none: those at the end of the training
        self._begun_with: dict | None = None  # the record of a training that is continued; -> load_checkpoint
        self._continued = False  # a checkpoint's weights were loaded; -> load_checkpoint
        self._fresh: list[float] = []  # sums of the network's parameters as it was built; -> initialize
        self._mixture: Mixture | None = None  # -> get_tr_and_val_datasets; None: patches are drawn as by nnU-Net

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
        self._fresh = self._sums()

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
        if self._mixture is not None:
            self._mixture.begin(self.current_epoch)
        super().on_train_epoch_start()

    def train_step(self, batch: dict) -> dict:
        """nnU-Net's iteration, then one step of the cyclic learning rate."""
        outputs = super().train_step(batch)
        if isinstance(self.lr_scheduler, IterationCyclicLR):
            self.lr_scheduler.step()
        if self._mixture is not None:
            self._mixture.count(batch[DRAWN])
        return outputs

    def on_train_epoch_end(self, train_outputs: list[dict]) -> None:
        """Puts the slow weights into the network before it is validated and saved."""
        if isinstance(self.optimizer, LookaheadSGD):
            self.optimizer.synchronise()
        super().on_train_epoch_end(train_outputs)
        if self._mixture is not None:
            self.print_to_log_file(self._mixture.report())

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
        self._loaded = Path(filename_or_checkpoint).name if isinstance(filename_or_checkpoint, str) else ""
        self._continued = True
        self._check_record()
        if isinstance(self.lr_scheduler, IterationCyclicLR):
            self.lr_scheduler.restore()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's validation; notes of which checkpoint it is, which the folder does not say after ``--val_best``.

        nnU-Net scores every file in the folder, so what an earlier training with other folds left there goes first.
        Fold ``all``, which has seen every label, leaves the cascade's next stage the predictions of the other folds.
        """
        self._clear_validation()
        settings = self.configuration_manager.configuration
        stages = settings.pop("next_stage", None) if self.fold == "all" else None
        if stages:
            self.print_to_log_file(
                f"Fold all has seen every label, so {' and '.join(stages)} gets no prediction of it."
            )
        try:
            super().perform_actual_validation(save_probabilities)
        finally:
            if stages is not None:
                settings["next_stage"] = stages
        if self.local_rank == 0:
            write_json(Path(self.output_folder) / VALIDATED, {"checkpoint": self._loaded or "checkpoint_final.pth"})

    def _clear_validation(self) -> None:
        """Deletes scores and the predictions of cases that are not validated now, before any process writes one."""
        if self.local_rank == 0:
            folder, validated = Path(self.output_folder) / "validation", set(self.do_split()[1])
            (folder / "summary.json").unlink(missing_ok=True)
            gone = set()
            for ending in (self.dataset_json["file_ending"], ".npz", ".pkl"):
                for path in folder.glob(f"*{ending}"):
                    if (name := path.name.removesuffix(ending)) not in validated:
                        path.unlink()
                        gone.add(name)
            if gone:
                self.print_to_log_file(
                    f"Deleted the predictions of {counted(len(gone), 'case')} in {folder} ({first_names(gone)}), not "
                    f"of this fold's validation: an earlier training with other folds has left them."
                )
        if self.is_ddp:
            torch.distributed.barrier()

    def _seed(self, moment: int | str) -> int:
        """Seed of ``moment`` ("weights" or an epoch) for this fold and process, from DIFFLUNG_SEED; 63 bit."""
        key = f"{_seed_variable()}/{self.fold}/{moment}/{self.local_rank}"
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
            if self.fold == "all":  # in the order of the folder, which decides draws and is another on every machine
                tr_keys, val_keys = sorted(tr_keys), sorted(val_keys)
            manifest = synthetic_cases.manifest(self.plans_manager.dataset_name)
            if self.use_synthetic:
                self._settle_method(manifest)
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

    def _settle_method(self, manifest: dict) -> None:
        """Takes the first method that the fold has cases of, and says so if it is another than the trainer's own."""
        asked, self.method = self.method, synthetic_cases.settled((self.method, *self.otherwise), manifest, self.fold)
        if self.method != asked:
            self.print_to_log_file(
                f"Fold {self.fold} has no synthetic cases of method '{asked}', so this training has those of "
                f"'{self.method}' (made by an earlier version, or with --preset paper or --method {self.method}).",
                also_print_to_console=True,
            )

    # ---- which patches ----

    def get_tr_and_val_datasets(self) -> tuple[nnUNetBaseDataset, nnUNetBaseDataset]:
        """nnU-Net's datasets; that of the training carries the rule by which patches are drawn, if it is not nnU-Net's.

        Raises:
            RuntimeError: the rule has nothing to draw from.
        """
        training, validation = super().get_tr_and_val_datasets()
        rule = self._rule(training) if self.current_epoch < self.num_epochs else None  # else nothing is drawn
        if rule is not None:
            self._mixture = training.mixture = Mixture(rule, self.current_epoch, self.num_epochs)
            of = ", ".join(source.described() for source in rule.sources)
            first, last = rule.dose.at(0, self.num_epochs), rule.dose.at(self.num_epochs - 1, self.num_epochs)
            self.print_to_log_file(
                f"Training patches: a share of {first:g}{f', falling to {last:g},' if first != last else ''} from "
                f"{of}; the others from {len(rule.real)} real cases."
            )
        return training, validation

    def get_dataloaders(self) -> tuple:
        """nnU-Net's, of which the one for training draws by the rule of its dataset."""
        with mixed_training():
            return super().get_dataloaders()

    def on_train_start(self) -> None:
        """nnU-Net's start of a training, new or continued.

        Raises:
            RuntimeError: a training is continued with another dose of synthetic patches, or another seed, than it was
                begun with.
        """
        if self.current_epoch > 0:
            self._check_variables()
        self._notice_other_weights()
        super().on_train_start()
        self._loaded = ""  # its weights change now

    def _check_variables(self) -> None:
        """Refuses to go on with other environment variables; a finished training keeps the record of its own."""
        before = self._begun_with or {}
        dose, seed = before.get(case_record.DOSE), before.get(case_record.SEED)  # earlier versions noted none
        pairs = [(as_variables(dose), as_variables(self._dose_record()))]
        if seed is not None:
            pairs.append((f"{SEED}={quoted(seed)}", f"{SEED}={quoted(self.seed)}"))
        others = [pair for pair in pairs if pair[0] != pair[1]]
        if self.current_epoch >= self.num_epochs:
            if self.use_synthetic:
                self.dose = as_variables(dose)
            self.seed = seed or "unknown"
            if self.local_rank == 0:
                self.my_init_kwargs[case_record.KEY].update({case_record.DOSE: dose, case_record.SEED: seed})
        elif others:
            begun, continued = (" ".join(texts) for texts in zip(*others, strict=True))
            raise RuntimeError(
                f"the training in {self.output_folder} was begun with {begun} and is continued with {continued}, which "
                f"would be a training of neither; set the variables as they were, or train anew without --c"
            )

    def _dose(self) -> Dose | None:
        """The dose of synthetic patches; None: every case is as likely as another."""
        if not self.use_synthetic:
            return None
        try:
            return dose_of(os.environ, self.synthetic_share)
        except ValueError as error:
            raise RuntimeError(str(error)) from None

    def _dose_record(self) -> dict | None:
        dose = self._dose()
        return None if dose is None else dose.as_record()

    def _rule(self, dataset: nnUNetBaseDataset) -> Rule | None:
        """How patches are drawn from the training dataset; None: as by nnU-Net."""
        dose = self._dose()
        assert self._cases is not None
        if dose is None or not self._cases.synthetic:
            return None
        entries = synthetic_cases.manifest(self.plans_manager.dataset_name)["cases"]
        entries = {name: entries[name] for name in self._cases.synthetic}
        if unknown := [name for name, entry in entries.items() if not entry.get("slices")]:
            raise RuntimeError(
                f"the manifest does not say which slices of {first_names(unknown)} are painted, which {SHARE} needs; "
                f"restore it from a copy, or set {SHARE}={BY_CASES}"
            )
        known, sizes = {}, {}
        for name in entries:  # one after the other: a loaded case holds two open files
            data, _, _, properties = dataset.load_case(name)
            known[name], sizes[name] = {key: properties[key] for key in CROPPING}, tuple(data.shape[1:])
        source = painted(entries, known, sizes, self.plans_manager.transpose_forward)
        return Rule(tuple(self._cases.real), (source,), dose)

    # ---- what is recorded ----

    @classmethod
    def reference_name(cls) -> str:
        """The trainer of the real cases alone that differs from this one in nothing else, where its length exists."""
        arm = "nnUNetTrainerDiffLungReference" + ("" if cls.cyclic else "Poly")
        return arm if cls.epochs not in LENGTHS else f"{arm}_{cls.epochs}epoch{'s' if cls.epochs > 1 else ''}"

    def _begin(self) -> None:
        """Settles and checks the cases of this training, in its first process, and notes them for its checkpoints."""
        record = self._dose_record()  # refuses before anything takes time
        if self.use_synthetic:
            self.dose = as_variables(record)  # which nnU-Net puts in debug.json
        self.seed = _seed_variable()
        self.do_split()
        assert self._cases is not None
        if self.local_rank == 0:
            check_cases(self, self._cases)
            self.my_init_kwargs[case_record.KEY] = record = self._record()
            self.real_cases = case_record.real_cases(record)  # which nnU-Net puts in debug.json
            if (file := case_record.pretrained_file()) is not None and os.path.isfile(file):
                arguments = torch.load(file, map_location="cpu", weights_only=False, mmap=True).get("init_args") or {}
                name = (arguments.get("plans") or {}).get("dataset_name")
                elsewhere = name is not None and name != self.plans_manager.dataset_name
                source = f"{file} (of {name})" if elsewhere else file
                self._note_pretrained(source, taught_by(arguments.get(case_record.KEY), elsewhere))
        self._wait_for_checks()

    def _wait_for_checks(self) -> None:
        """On several GPUs: lets all processes go on once the first has checked the cases, however long that takes.

        The first thing that they do together is to compare their networks, for which NCCL waits ten minutes.
        """
        if not self.is_ddp:
            return
        store = torch.distributed.distributed_c10d._get_default_store()
        if self.local_rank == 0:
            store.set(_CHECKED, "")
        else:
            store.wait([_CHECKED], timedelta(days=7))

    def _record(self) -> dict:
        """What this training's checkpoints say about its cases, its dose and its seed."""
        assert self._cases is not None
        cases = case_record.record_of(self.plans_manager.dataset_name, self._cases)
        return cases | {case_record.DOSE: self._dose_record(), case_record.SEED: self.seed}

    def _sums(self) -> list[float]:
        return (
            [float(p.detach().cpu().double().sum()) for p in self.network.parameters()] if self.local_rank == 0 else []
        )

    def _notice_other_weights(self) -> None:
        """Notes that a new training begins with weights of unknown origin, which a caller in Python has loaded."""
        if self.local_rank != 0 or self._continued or not self.was_initialized:
            return
        if PRETRAINED not in self.my_init_kwargs[case_record.KEY] and self._sums() != self._fresh:
            self._note_pretrained("the file with the pretrained weights", taught_by(None))

    def _check_record(self) -> None:
        """Compares the cases of the checkpoint just loaded with those of now; keeps its record for a continuation."""
        self._begun_with = before = self.my_init_kwargs.get(case_record.KEY)
        if self.local_rank != 0 or self._cases is None:
            return
        now = self._record()
        self.my_init_kwargs[case_record.KEY] = now
        if before is None or before.get(case_record.SEED) is None:
            now[case_record.SEED], self.seed = None, "unknown"
        if before and PRETRAINED in before:
            self._note_pretrained("the checkpoint that this training began with", before[PRETRAINED])
        if before is None:
            self.print_to_log_file(
                "The checkpoint does not say which cases it was trained on (an earlier version wrote it), so they were "
                "not compared with those of now.",
                also_print_to_console=True,
            )
        elif changed := case_record.differences(before, now):
            raise RuntimeError(
                f"the checkpoint in {self.output_folder} was trained with other cases: {changed}. Train anew without "
                f"--c and --val, or restore the splits and cases that it was trained with{self._elsewhere(before)}"
            )

    def _elsewhere(self, before: dict) -> str:
        """How to go on with a training of a method in whose place the fold's cases of this one have come; or nothing.

        Args:
            before: the record of its checkpoint.
        """
        assert self._cases is not None
        name, own = type(self).__name__, METHODS[self.method].trainer
        manifest = synthetic_cases.manifest(self.plans_manager.dataset_name)
        for method in self.otherwise if name.split("_")[0] == own else ():
            cases = replace(self._cases, synthetic=synthetic_cases.of_arm(manifest, method, self.fold))
            trainer, folder = name.replace(own, METHODS[method].trainer), Path(self.output_folder)
            model = folder.parent.with_name(folder.parent.name.replace(name, trainer, 1))
            now = case_record.record_of(self.plans_manager.dataset_name, cases)
            if not case_record.differences(before, now) and not (model / folder.name).exists():
                return (
                    f". Its cases are all still there: those of '{method}', but fold {self.fold} has got cases of "
                    f"'{self.method}' since, which come first with -tr {name}. To go on with it, make it a training "
                    f"of '{method}': mkdir -p {quoted(model)} && cp {quoted(folder.parent)}/*.json "
                    f"{quoted(model)} && mv {quoted(folder, model)}; then use -tr {trainer}"
                )
        return ""

    def _note_pretrained(self, source: str, taught: dict) -> None:
        """Records what pretrained weights have seen, and warns if that is, or may be, a validation patient."""
        assert self._cases is not None
        self.my_init_kwargs[case_record.KEY][PRETRAINED] = taught
        patients = known_patients(self.plans_manager.dataset_name, [*self._cases.real, *self._cases.validation])
        names, validation = seen(taught, self._cases.validation, patients), self._cases.validation
        self.pretrained = "validation patients" if names else "unseen" if taught["complete"] else "unknown"
        if names:
            text = (
                f"{source} was trained on patients of {len(names)} of the {len(validation)} validation cases of this "
                f"fold (first: {names[0]}), so this training cannot be validated on them"
            )
        else:
            text = f"{source} does not say which cases it was trained on; they may include patients of this validation"
        if names or not taught["complete"]:
            self.print_to_log_file(f"WARNING: {text}.", also_print_to_console=True)


def _seed_variable() -> str:
    return os.environ.get(SEED) or "12345"


class nnUNetTrainerDiffLungReference(nnUNetTrainerDiffLung):
    """The paper's ref-UNet: the same network, optimizer, schedule and validation, real cases only."""

    use_synthetic = False


class nnUNetTrainerDiffLungPoly(nnUNetTrainerDiffLung):
    """The cases of nnUNetTrainerDiffLung with nnU-Net's own optimizer and schedule: what the cases do alone."""

    cyclic = False


class nnUNetTrainerDiffLungReferencePoly(nnUNetTrainerDiffLungReference):
    """The reference with nnU-Net's own optimizer and schedule: what Lookahead and CyclicLR do alone."""

    cyclic = False
