"""What a dry run needs of a case, found by the process that has read it: images are neither read nor sent again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nnunet_difflung.audit.image_check import Slice, slices_of
from nnunet_difflung.dataset.reading import CaseFacts
from nnunet_difflung.lesions.balance import lesions_of
from nnunet_difflung.lesions.masks import Lesion
from nnunet_difflung.meaning.labels import LabelRoles


@dataclass(frozen=True)
class Look:
    """What was found in a case.

    Attributes:
        lesions: its lesions, for the plan.
        slices: its slices, to be compared with those of other cases.
    """

    lesions: list[Lesion]
    slices: list[Slice]


@dataclass(frozen=True)
class FirstLook:
    """Looks at cases of a dataset with these labels."""

    roles: LabelRoles

    def __call__(self, facts: CaseFacts, image: np.ndarray, condition: np.ndarray) -> Look:
        """Takes the facts of a case, its image (c, z, y, x) and its condition map (z, y, x)."""
        label = np.where(condition == self.roles.body_value, 0, condition).astype(condition.dtype)
        return Look(lesions_of(facts, label, self.roles), slices_of(image, facts.spacing[0]))
