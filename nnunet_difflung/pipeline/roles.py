"""Warns of labels that are taken as pathologies and look like anatomy."""

from __future__ import annotations

import sys

from nnunet_difflung.dataset.labels import LabelRoles, structure_option, structures_by_name
from nnunet_difflung.lesions.contact import LungContact


def warn_of_structures(roles: LabelRoles) -> None:
    """Warns of pathologies whose names say that they are anatomy."""
    names = structures_by_name(roles)
    if names:
        taken = "is taken as a pathology" if len(names) == 1 else "are taken as pathologies"
        print(
            f"Warning: {', '.join(map(repr, names))} {taken} and will be painted into normal lung; "
            f"if {'it is none' if len(names) == 1 else 'they are none'}, add {structure_option(names)}",
            file=sys.stderr,
        )


def warn_of_labels_outside_lung(contact: LungContact) -> None:
    """Warns of pathologies that hardly touch lung in the cases that were read."""
    outside = contact.outside()
    if outside:
        shares = ", ".join(f"{name!r} ({share:.1%} of its outline)" for name, share in outside.items())
        print(
            f"Warning: {shares} hardly touch{'es' if len(outside) == 1 else ''} normal lung or another pathology, but "
            f"will be painted into normal lung; if {'it is no pathology' if len(outside) == 1 else 'they are none'}, "
            f"add {structure_option(tuple(outside))}",
            file=sys.stderr,
        )
