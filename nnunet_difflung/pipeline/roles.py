"""Warns of pathologies that look like anatomy, and refuses other roles than those of earlier synthetic cases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.card import CARD
from nnunet_difflung.injection.manifest import cases_of
from nnunet_difflung.lesions.border import classes_on_border
from nnunet_difflung.lesions.contact import LungContact
from nnunet_difflung.meaning.labels import LabelRoles, structure_option, structures_by_name
from nnunet_difflung.methods import METHODS
from nnunet_difflung.paths import fold_folder
from nnunet_difflung.runtime.messages import warn
from nnunet_difflung.runtime.wording import quoted

if TYPE_CHECKING:
    from nnunet_difflung.preparing.fold import Fold


def warn_of_structures(roles: LabelRoles) -> None:
    """Warns of pathologies whose names say that they are anatomy."""
    names = structures_by_name(roles)
    if names:
        taken = "is taken as a pathology" if len(names) == 1 else "are taken as pathologies"
        warn(
            f"{', '.join(map(repr, names))} {taken} and will be painted into normal lung; "
            f"if {'it is not a pathology' if len(names) == 1 else 'they are not pathologies'}, "
            f"add {structure_option(names)}"
        )


def warn_of_labels_outside_lung(contact: LungContact) -> None:
    """Warns of pathologies that hardly touch lung in the cases that were read."""
    outside = contact.outside()
    if outside:
        shares = ", ".join(f"{name!r} ({share:.1%} of its outline)" for name, share in outside.items())
        warn(
            f"{shares} hardly touch{'es' if len(outside) == 1 else ''} normal lung or another pathology, but "
            f"will be painted into normal lung; "
            f"if {'it is not a pathology' if len(outside) == 1 else 'they are not pathologies'}, "
            f"add {structure_option(tuple(outside))}"
        )


def warn_of_classes_on_border(folds: Sequence[Fold]) -> None:
    """Warns of pathologies that lie on the lung's border, and says whether they will be painted into it."""
    for name in folds[0].raw.roles.pathologies:
        found = [share for fold in folds if (share := classes_on_border(fold.lesions).get(name))]
        if found:
            painted = any(fold.plan.targets.get(name) for fold in folds)
            so = (
                f"it will be painted into normal lung all the same; --target-share {quoted(f'{name}=0')} leaves it out"
                if painted
                else f"it will not be painted; --target-share {quoted(f'{name}=SHARE')} does so all the same"
            )
            warn(
                f"{np.mean(found):.0%} of the outline of {name!r} is pleura, so it lies on the border of the "
                f"lung, not in it, and no reader would believe it in normal lung: {so}"
            )


def with_present_roles(raw: RawDataset, manifest: dict | None) -> dict | None:
    """The manifest without the runs that added nothing and were made with other roles of the labels.

    Raises:
        BadInput: synthetic cases were made with other roles: a label was a pathology and is normal lung now, or was
            lung and is none now, or the other way round.
    """
    if manifest is None:
        return None
    runs = []
    for run in manifest["runs"]:
        change = _change(run.get("summary"), raw.roles)
        if change and cases_of(manifest, run):
            raise BadInput(
                f"{raw.name} holds synthetic cases of method {run['method']} for fold {run['fold']} that were made "
                f"with other roles of its labels: {change}; run difflung_remove -d {quoted(raw.name)}"
                f"{_generators_too(raw, run)} first, or give the options for labels that were given then"
            )
        runs += [] if change else [run]
    return {**manifest, "runs": runs}


def _generators_too(raw: RawDataset, run: dict) -> str:
    """The option that deletes generators if the run's is still there: with other roles it is refused as well."""
    method = METHODS.get(run["method"])
    if method is None or not method.generator:
        return ""
    card = fold_folder(raw.name, method.trained.name, run["fold"]) / CARD
    return " --generators" if card.is_file() else ""


def _change(summary: object, roles: LabelRoles) -> str | None:
    """How the roles in a run's summary differ from the present ones; None if they do not, or are not recorded."""
    earlier = summary if isinstance(summary, dict) else {}
    lung, targets = earlier.get("voxels_before"), earlier.get("targets")
    if not isinstance(lung, dict) or not isinstance(targets, dict):
        return None
    pathologies = (*targets, *earlier.get("left_out", ()))  # those on the lung's border have no target
    for names, what in (
        ([name for name in roles.normal if name in pathologies], "was a pathology and is normal lung now"),
        ([name for name in roles.lung if name not in lung], "was no lung and is taken as lung now"),
        ([name for name in lung if name not in roles.lung], "was taken as lung and is none now"),
    ):
        if names:
            return f"{names[0]!r} {what}"
    return None
