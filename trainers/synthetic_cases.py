"""Which cases of a dataset are synthetic, and on which of them an arm may train, according to the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nnunet_difflung.dataset.splits import is_synthetic
from nnunet_difflung.injection.manifest import find_manifest, run_of


def manifest(dataset_name: str) -> dict:
    """``difflung_manifest.json`` of a dataset; an empty manifest if the dataset was never augmented."""
    return find_manifest(dataset_name) or {"cases": {}, "patients": {}, "runs": [], "files": {}}


def real_only(identifiers: Iterable[str], manifest: dict) -> list[str]:
    """``identifiers`` without the synthetic ones, in their order."""
    return [key for key in identifiers if not is_synthetic(key) and key not in manifest["cases"]]


def of_arm(manifest: dict, method: str, fold: int | str) -> list[str]:
    """Synthetic identifiers painted with ``method`` for ``fold`` (a number or "all"), sorted."""
    return sorted(
        key for key, case in manifest["cases"].items() if case["method"] == method and str(case["fold"]) == str(fold)
    )


def settled(methods: Sequence[str], manifest: dict, fold: int | str) -> str:
    """The first of ``methods`` that has cases in ``fold`` or needs none there; else the first of all."""
    found = (name for name in methods if of_arm(manifest, name, fold) or needs_none(manifest, name, fold))
    return next(found, methods[0])


def needs_none(manifest: dict, method: str, fold: int | str) -> bool:
    """Whether ``difflung_augment`` found that every class has its target share in ``fold`` and so added no case."""
    run = run_of(manifest, {"method": method, "fold": fold})
    return run is not None and (run.get("summary") or {}).get("injected") == 0
