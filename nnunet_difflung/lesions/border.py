"""Finds classes that live on the lung's border, such as a pleural effusion: painted into lung they can't be believable.

The measure is the share of a lesion's outline that is pleura, averaged over the voxels of the class. It is high for
effusions, and low for COVID-19 lesions and lung nodules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_difflung.lesions.masks import Lesion

_LEAST = 0.45  # share of the outline that is pleura
_MOST = 0.97  # more is a label outside the lung, of which ``contact`` warns
_TOUCHING = 0.9  # share of the lesions that touch the pleura
_ENOUGH = 2  # lesions; a single one proves nothing


def classes_on_border(lesions: Mapping[str, Sequence[Lesion]]) -> dict[str, float]:
    """The classes that lie between the lung and what is no lung, and the share of their outline that is pleura.

    Args:
        lesions: pathology → lesions of training cases with their sites.
    """
    found = {}
    for name, of_class in lesions.items():
        sites = [lesion.site for lesion in of_class if lesion.site is not None]
        if len(sites) >= _ENOUGH:
            contact = np.array([site.contact for site in sites])
            share = float(np.average(contact, weights=[site.size for site in sites]))
            if _LEAST <= share < _MOST and np.mean(contact > 0) >= _TOUCHING:
                found[name] = share
    return found
