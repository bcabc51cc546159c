"""What ``difflung_augment`` is asked for, and what it leaves when it has done it: report, audit, the next commands."""
from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.audit import audit_dataset
from nnunet_difflung.augment_text import next_commands
from nnunet_difflung.command_line import Failed, nnunet_folder
from nnunet_difflung.config import Settings
from nnunet_difflung.files import read_json, write_json
from nnunet_difflung.fold import FoldWork, results_folder
from nnunet_difflung.raw_dataset import RawDataset
from nnunet_difflung.staging import Synthesis, SynthesisResult


@dataclass(frozen=True)
class Request:
    """A call of ``difflung_augment``.

    Attributes:
        dataset: id or name.
        folds: names of folds, empty for all of the split.
        settings: of generator, sampling and balance.
        configuration: nnU-Net configuration that is to be trained afterwards.
        device: ``cpu``, ``cuda`` or ``mps``.
        processes: for reading cases and nnU-Net's fingerprint.
        normal_label: name of the normal lung's label, or None.
        structure_labels: labels that are neither lung nor pathology.
        patient_pattern: regular expression, or None.
        save_every: seconds between checkpoints of the generator.
        dry_run: show the plan and touch nothing.
    """

    dataset: str
    folds: tuple[str, ...]
    settings: Settings
    configuration: str = "2d"
    device: str = "cpu"
    processes: int = 2
    normal_label: str | None = None
    structure_labels: tuple[str, ...] = ()
    patient_pattern: str | None = None
    save_every: float = 60.0
    dry_run: bool = False


def conclude(raw: RawDataset, works: list[FoldWork], done: list[tuple[Synthesis, SynthesisResult]], seconds: dict,
              request: Request, preview: Path | None) -> None:
    """Report, audit and the commands to run next."""
    path = results_folder(raw.name, request.settings.generator.method) / "augment_report.json"
    earlier = read_json(path)["folds"] if path.is_file() else []
    rows = [{"fold": work.fold, "before": work.plan.before, "after": work.plan.after, "notes": work.plan.notes,
             "planned": len(work.plan.cases), "injected": len(result.staged), "repainted": result.repainted,
             "dropped": result.dropped, "quality": result.quality, "quality_of_all": result.quality_of_all,
             "memorisation": result.memorisation,
             "seconds_of_all_folds_together": seconds} for work, (_, result) in zip(works, done, strict=True)]
    kept = [row for row in earlier if row["fold"] not in [new["fold"] for new in rows]]
    write_json(path, {"settings": request.settings.as_dict(), "folds": [*kept, *rows]})
    if preview:
        print(f"\nLook at {preview} before you go on.")
    audit_and_go_on(raw, [work.fold for work in works], request)


def audit_and_go_on(raw: RawDataset, folds: list[int | str], request: Request) -> None:
    """Proves fold-locking from the files, then says what to run next.

    Raises:
        Failed: the audit found a leak.
    """
    leaks = audit_dataset(raw.name, deep=True)
    if leaks:
        raise Failed("the audit found: " + "; ".join(leaks[:3]) + f" (difflung_audit -d {raw.name} lists all)")
    print(f"Audit: no validation case or patient is behind any synthetic case of {raw.name}.")
    print(next_commands(raw, request.configuration, request.settings.generator.method, folds, request.device))


def run_entry(work: FoldWork, s: Synthesis, result: SynthesisResult) -> dict:
    """What the manifest keeps of a run."""
    return {"method": s.method, "fold": s.fold, "settings": work.settings.as_dict(),
            "generator": {"hash": s.generator.hash or None, "folder": os.path.relpath(
                s.generator.folder, nnunet_folder("nnUNet_results")),
                "training_cases": list(s.generator.training_cases)},
            "summary": {"planned": len(work.plan.cases), "injected": len(result.staged),
                        "dropped": sorted(result.dropped), "quality": result.quality,
                        "memorisation": result.memorisation, "targets": work.plan.targets,
                        "voxels_before": work.plan.before, "voxels_planned": work.plan.after}}
