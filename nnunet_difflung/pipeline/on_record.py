"""What is on record about a method's folds: ``augment_report.json``, and the manifest where that has nothing or less.

The manifest alone says which cases are in the dataset, and an interruption can separate it from the report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import results_folder
from nnunet_difflung.runtime.files import json_bytes, read_own_json, write_json
from nnunet_difflung.runtime.locks import holding
from nnunet_difflung.runtime.writable import is_writable, nearest

# row of the report → summary of the manifest's run, in which they are the same
_ALIKE = {"planned": "planned", "before": "voxels_before", "after": "voxels_planned", "quality": "quality"}
_NOTE = (
    "from the record in the dataset, since that of the command is missing: notes on the plan and the reasons for "
    "dropped cases are not known"
)


def report_path(dataset_name: str, method: str) -> Path:
    """Where the report of a method lies; it may not exist."""
    return results_folder(dataset_name, method) / "augment_report.json"


def read_report(dataset_name: str, method: str) -> dict | None:
    """Content of a method's ``augment_report.json``; None if there is none.

    Raises:
        BadInput: the report is damaged.
    """
    path = report_path(dataset_name, method)
    if not path.is_file():
        return None
    content = read_own_json(path, ", or delete it: it only reports earlier runs")
    if not isinstance(content, dict) or not isinstance(content.get("folds"), list):
        raise BadInput(f"{path} is damaged (it has no list 'folds'); restore it, or delete it")
    return content


def earlier_rows(dataset_name: str, method: str) -> list[dict]:
    """The folds of earlier commands in a method's report; empty if there is no report.

    Raises:
        BadInput: the report is damaged.
    """
    content = read_report(dataset_name, method)
    return content["folds"] if content else []


def add_rows(dataset_name: str, method: str, rows: list[dict], about: Mapping[str, Any]) -> None:
    """Writes folds into the report in place of what it says of them; several commands may do so at once.

    Args:
        dataset_name: ``DatasetXXX_NAME``.
        method: name of the method.
        rows: the folds.
        about: what the report says beside the folds.

    Raises:
        BadInput: the report is damaged.
    """
    new = [row["fold"] for row in rows]
    with _alone(dataset_name, method):
        earlier = [row for row in earlier_rows(dataset_name, method) if row["fold"] not in new]
        write_json(report_path(dataset_name, method), {**about, "folds": [*earlier, *rows]})


def renew_report(dataset_name: str, method: str, manifest: dict | None) -> None:
    """Writes the report again if the manifest knows more, and this user can write it.

    Raises:
        BadInput: the report is damaged.
    """
    path, present = report_path(dataset_name, method), read_report(dataset_name, method)
    known = known_report(dataset_name, method, manifest)
    if json_bytes(known) != json_bytes(present) and is_writable(nearest(path.parent)):
        with _alone(dataset_name, method):
            write_json(path, known_report(dataset_name, method, manifest))


def known_report(dataset_name: str, method: str, manifest: dict | None) -> dict | None:
    """Content of a method's report, with what the manifest alone knows; None if nothing is on record.

    Raises:
        BadInput: the report is damaged.
    """
    content = read_report(dataset_name, method)
    for run in manifest["runs"] if manifest else ():
        if run["method"] == method:
            content = _with_run(content, run, manifest or {})
    return content


@contextmanager
def _alone(dataset_name: str, method: str) -> Iterator[None]:
    """Holds the report's lock file, which is then deleted."""
    lock = report_path(dataset_name, method).with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with holding(lock):
        yield
        with suppress(OSError):  # not while it is open, on Windows
            lock.unlink()


def _with_run(content: dict | None, run: dict, manifest: dict) -> dict | None:
    """A report that has what the manifest says of a run."""
    summary = run.get("summary") or {}
    if not {"injected", "dropped", *_ALIKE.values()} <= summary.keys():
        return content
    report: dict[str, Any] = content or {"patients": manifest.get("reading", {}), "folds": []}
    rows = report["folds"]
    place = next((number for number, row in enumerate(rows) if row["fold"] == run["fold"]), len(rows))
    if place < len(rows) and _is_of(rows[place], summary):
        row = {key: value for key, value in rows[place].items() if key != "stopped"}
        row["injected"] = summary["injected"]
    else:
        row, report = _row_of(run), {**report, "settings": run.get("settings")}
    return {**report, "folds": [*rows[:place], row, *rows[place + 1 :]]}


def _is_of(row: dict, summary: dict) -> bool:
    """Whether a row of the report tells of the run that the manifest has."""
    same = all(json_bytes(row.get(key)) == json_bytes(summary[name]) for key, name in _ALIKE.items())
    return same and sorted(row.get("dropped", ())) == sorted(summary["dropped"])


def _row_of(run: dict) -> dict:
    """A row of the report from the manifest's run."""
    summary = run["summary"]
    kept = ("quality", "verdicts", "memorisation", "selection", "placebo")
    return {
        "fold": run["fold"],
        **{key: summary[name] for key, name in _ALIKE.items()},
        "notes": [_NOTE],
        "injected": summary["injected"],
        "dropped": {identifier: {"quality": {}, "memorisation": {}} for identifier in summary["dropped"]},
        **{key: summary[key] for key in kept if key in summary},
        **({"channels": run["channels"]} if "channels" in run else {}),
    }
