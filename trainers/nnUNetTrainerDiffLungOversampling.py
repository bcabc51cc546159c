"""The trainer of the real cases with class-balanced sampling, to be compared with synthetic cases."""

from __future__ import annotations

from typing import ClassVar

from nnunetv2.training.dataloading.nnunet_dataset import nnUNetBaseDataset

from nnunet_difflung.trainers import synthetic_cases
from nnunet_difflung.trainers.classes import to_balance
from nnunet_difflung.trainers.dose import Dose
from nnunet_difflung.trainers.nnUNetTrainerDiffLung import nnUNetTrainerDiffLungReference
from nnunet_difflung.trainers.sampling import Rule, balanced


class nnUNetTrainerDiffLungOversampling(nnUNetTrainerDiffLungReference):
    """The reference with class-balanced sampling, what one would try before any synthesis; real cases only.

    nnU-Net draws a case first, whatever it shows, and centres a third of the patches on any class of that case, so a
    class that few cases have is rarely seen. Here half of the patches are centred on a pathology: each pathology of
    the training cases has an equal part of them, each slice that shows it is as likely as another, and so is each of
    its voxels there. The other half is drawn in nnU-Net's way, so that cases without a pathology keep their place.
    """

    balanced_share: ClassVar[float] = 0.5

    def _rule(self, dataset: nnUNetBaseDataset) -> Rule:
        assert self._cases is not None
        classes = to_balance(self.dataset_json, synthetic_cases.manifest(self.plans_manager.dataset_name))
        cases = ((name, dataset.load_case(name)[3]["class_locations"]) for name in self._cases.real)
        sources = balanced(cases, classes)
        if not sources:
            raise RuntimeError(
                f"no training case of fold {self.fold} shows {' or '.join(classes)}, so there is nothing to draw more "
                f"often; use -tr {self.reference_name()}"
            )
        return Rule(tuple(self._cases.real), sources, Dose(self.balanced_share))
