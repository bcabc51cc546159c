"""The verdicts on a conversion, from the content of ``conversion_report.json``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nnunet_difflung.dataset_conversion.notes import Kind
from nnunet_difflung.dataset_conversion.output.changes import doubtful
from nnunet_difflung.pages.blocks import Light, Lights
from nnunet_difflung.runtime.wording import counted

_MOST_NAMED = 8
_AIR = -900.0  # HU; the lowest value of a CT of the chest lies below


def verdicts(report: Mapping) -> Lights:
    """What to look at before training."""
    return Lights([*_classes(report), *_derived(report), *_values(report), *_changes(report)])


def foreground(report: Mapping) -> list[str]:
    """The classes that a network is to find."""
    return [name for name, value in report["labels"].items() if value and name != "ignore"]


def _training(report: Mapping, name: str) -> int:
    """Number of training patients who have a class."""
    return sum(bool(p["voxels"][name]) for p in report["patients"].values() if not p["test"])


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (
        f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    )


def _classes(report: Mapping) -> list[Light]:
    have = {name: _training(report, name) for name in foreground(report)}
    absent = [name for name, patients in have.items() if not patients]
    single = [name for name, patients in have.items() if patients == 1]
    if absent:
        return [Light("bad", "Classes", f"no training case has {_named(absent)}, so no model can learn it")]
    if single:
        text = f"{_named(single)}: one training patient, so a fold that validates on this patient trains without it"
        return [Light("look", "Classes", text)]
    if not have:
        return []
    fewest = min(have, key=lambda name: have[name])
    return [Light("good", "Classes", f"each is in two training patients or more; fewest: {fewest}, {have[fewest]}")]


def _derived(report: Mapping) -> list[Light]:
    if not report["derived"]:
        return []
    names, title = doubtful(report), "Derived labels"
    derived = f"{', '.join(report['derived'])}: derived from the images, not drawn"
    if names:
        return [Light("look", title, f"{derived}; in doubt in {counted(len(names), 'patient')}: {_named(names)}")]
    return [Light("good", title, f"{derived}; no patient is in doubt")]


def _values(report: Mapping) -> list[Light]:
    if report["channel"] != "CT":
        return []
    high = [name for name, patient in report["patients"].items() if patient["intensity"][0] > _AIR]
    if high:
        text = f"no value below {_AIR:g} HU in {counted(len(high), 'patient')} ({_named(high)}): is this HU, and whole?"
        return [Light("look", "Intensities", text)]
    return [Light("good", "Intensities", f"each patient has values below {_AIR:g} HU, as air and lung have")]


def _changes(report: Mapping) -> list[Light]:
    changes = report["changes"]
    patients = [
        row["count"] for what, row in changes.get(Kind.DROPPED.value, {}).items() if what.startswith("patients")
    ]
    lights = []
    if patients:
        lights.append(Light("look", "Patients left out", f"{sum(patients)}; the reasons are below"))
    kinds = {kind: sum(row["count"] for row in rows.values()) for kind, rows in changes.items()}
    text = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    if kinds:
        lights.append(Light("look", "Changes", f"{text}; what and in how many patients is below"))
    else:
        lights.append(Light("good", "Changes", "nothing was dropped, merged, moved, guessed or reinterpreted"))
    return lights
