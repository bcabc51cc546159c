"""A methods paragraph for a manuscript, from the settings on record."""

from __future__ import annotations

from nnunet_difflung import __version__
from nnunet_difflung.methods import METHODS
from nnunet_difflung.report.records import Records
from nnunet_difflung.runtime.wording import counted


def paragraph(records: Records) -> str:
    """What was done, in sentences that can be pasted; whatever is not on record is left out."""
    raw, settings, method = records.raw, records.settings, METHODS[records.method]
    kept, planned = len(records.cases), sum(row["planned"] for row in records.rows)
    placebo = sum(bool(case.get("placebo")) for case in records.cases.values())
    return " ".join(
        [
            f"Synthetic training cases were made with nnunet_difflung {records.manifest.get('version', __version__)} "
            f"(method {method.name}: {method.explanation}) for {counted(len(records.rows), 'fold')} of an nnU-Net "
            f"dataset of {len(raw.cases)} cases of {counted(len(set(raw.patients.values())), 'patient')}.",
            *_network(records),
            *_masks(records),
            f"Of {planned} planned cases {kept} were kept"
            + (f", {placebo} of them without a new lesion (normal lung repainted as normal lung)." if placebo else "."),
            *_gate(records),
            f"Generator, masks and synthetic cases of a fold were made from its training patients alone; the audit of "
            f"the files found {counted(len(records.audit.problems), 'problem')}. Validation and test cases are real. "
            f"Seeds: generator {settings['generator']['seed']}, masks {settings['balance']['seed']}.",
        ]
    )


def _network(records: Records) -> list[str]:
    settings, method = records.settings, METHODS[records.method]
    generator, sampling = settings["generator"], settings["sampling"]
    if not method.generator:
        return ["Real lesions of training patients were pasted; no network was trained."]
    trained = (
        f"For each fold a network with {', '.join(map(str, generator['channels']))} channels was trained for "
        f"{counted(generator['epochs'], 'epoch')} on crops of {generator['patch_size']} pixels (batches of "
        f"{generator['batch_size']}, learning rate {generator['learning_rate']:g}, {generator['precision']})"
    )
    if method.family == "gan":
        return [f"{trained}."]
    return [
        f"{trained}; lesions were painted with the {sampling['sampler']} sampler in {sampling['steps']} steps, "
        + ("within the changed region alone." if sampling["paint"] == "composite" else "on whole slices.")
    ]


def _masks(records: Records) -> list[str]:
    targets: dict[str, set[str]] = {}
    for run in records.runs:
        for name, target in run["summary"].get("targets", {}).items():
            targets.setdefault(name, set()).add(f"{target:.1%}")
    balance = records.settings["balance"]
    places = (
        "at places and of sizes like those of real lesions"
        if balance["placement"] == "real"
        else "at places drawn uniformly over normal lung"
    )
    if not targets:
        return []
    shares = "; ".join(f"{name} {' to '.join(sorted(of))}" for name, of in targets.items())
    return [
        f"Outlines of real lesions of training patients were pasted {places}, up to a target share of lung ({shares})."
    ]


def _gate(records: Records) -> list[str]:
    gate = records.settings["sampling"]["gate"]
    words = {
        "drop": "Cases whose intensities differ from real lesions by more than patients differ were dropped.",
        "report": "Intensities were compared with those of real lesions, and no case was dropped for them.",
        "off": "",
    }
    return [words[gate]] if words[gate] else []
