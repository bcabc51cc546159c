"""Which method is reported on."""

from __future__ import annotations

from nnunet_difflung.config import METHOD
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.manifest import find_manifest
from nnunet_difflung.methods import METHODS
from nnunet_difflung.pipeline.on_record import known_report


def method_on_record(dataset_name: str, wanted: str | None = None) -> str:
    """The wanted method; without one ``difflung``, or the only method that has synthetic cases on record.

    Args:
        dataset_name: ``DatasetXXX_NAME``.
        wanted: name in ``methods.METHODS``; None if the user has not said.

    Raises:
        BadInput: several other methods are on record.
    """
    if wanted:
        return wanted
    manifest = find_manifest(dataset_name)
    known = [name for name in METHODS if known_report(dataset_name, name, manifest) is not None]
    if METHOD in known or not known:
        return METHOD
    if len(known) > 1:
        raise BadInput(f"{dataset_name} has synthetic cases of {', '.join(known)}; say which with --method")
    return known[0]
