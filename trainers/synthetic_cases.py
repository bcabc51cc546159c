"""Which cases of a dataset are synthetic, and on which of them an arm may train, according to the manifest."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nnunet_difflung.dataset.splits import is_synthetic
from nnunet_difflung.injection.manifest import find_manifest, run_of
from nnunet_difflung.lesions.plan import shares


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
    """The first of ``methods`` that has cases in ``fold`` or a run that added none; else the first of all."""
    found = (name for name in methods if of_arm(manifest, name, fold) or run_without_cases(manifest, name, fold))
    return next(found, methods[0])


def run_without_cases(manifest: dict, method: str, fold: int | str) -> dict | None:
    """The run of ``difflung_augment`` that added no case of ``method`` to ``fold``; None if there is none."""
    run = run_of(manifest, {"method": method, "fold": fold})
    return run if run is not None and (run.get("summary") or {}).get("injected") == 0 else None


def why_none(run: dict) -> tuple[str, bool]:
    """Why a run added no case to its fold, after "since", and whether that is as it should be.

    It is if the fold needs none; otherwise an arm that should have had synthetic cases equals the reference.
    """
    summary = run["summary"]
    planned, targets, voxels = (summary.get(key) for key in ("planned", "targets", "voxels_before"))
    if planned:
        return f"none of the {planned} planned cases was kept (excluded by a reader or dropped)", False
    if not isinstance(targets, dict) or not isinstance(voxels, dict):
        return "it planned none; why is not on record", False
    if not targets:
        return "no pathology was to be painted", False
    share = shares(voxels)
    short = [f"{name} {share[name]:.1%} of {target:.1%}" for name, target in targets.items() if share[name] < target]
    if short:
        return f"it could plan none, though classes are below their target shares there ({', '.join(short)})", False
    return "every class has its target share there", True
