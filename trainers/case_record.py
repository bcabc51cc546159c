"""What a training was begun with: kept in its checkpoints, and compared before it is continued or validated."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from nnunet_difflung.dataset.contents import digest_of, hashes_of_case, hashes_of_dataset, present_cases
from nnunet_difflung.injection.leaks import first_names
from nnunet_difflung.paths import CASES_IN_CHECKPOINT, DATASET, dataset_folders
from nnunet_difflung.runtime.files import read_json
from nnunet_difflung.trainers.synthetic_cases import manifest as manifest_of
from nnunet_difflung.trainers.training_cases import TrainingCases

KEY = CASES_IN_CHECKPOINT  # nnU-Net saves and restores it as it is
DOSE = "dose"  # in that record: the trainer's dose of synthetic patches, None where there is none
SEED = "seed"  # in that record: DIFFLUNG_SEED; None where the training was begun by a version that did not note it
_KINDS = {"real": "real training", "synthetic": "synthetic training", "validation": "validation"}


def record_of(dataset_name: str, cases: TrainingCases) -> dict[str, Any]:
    """What a checkpoint says about the cases of its training.

    Args:
        dataset_name: ``DatasetXXX_NAME``.
        cases: of the training.

    Returns:
        ``real``, ``synthetic``, ``validation``: ids, sorted; ``contents``: one SHA-256 for the files of each of these
        lists, or None where the files' hashes are not known (no raw dataset, and none in the manifest).

    Raises:
        RuntimeError: a synthetic case has left the dataset.
    """
    lists = {kind: sorted(getattr(cases, kind)) for kind in _KINDS}
    contents = _contents(dataset_name, {*cases.real, *cases.validation}, cases.synthetic)
    return {**lists, "contents": {kind: digest_of(contents, names) for kind, names in lists.items()}}


def _contents(dataset_name: str, real: set[str], synthetic: Sequence[str]) -> dict[str, dict[str, str]]:
    """Case → file → SHA-256; of real cases from the raw dataset if it is there, else from the manifest."""
    manifest = manifest_of(dataset_name)
    contents = dict(manifest.get("contents") or {})
    raw, _ = dataset_folders(dataset_name)
    if raw is not None and (raw / DATASET).is_file():
        hashes = hashes_of_dataset(dataset_name)
        present = present_cases(raw, read_json(raw / DATASET))
        contents = {name: hashes_of_case(raw, present[name], hashes) for name in real if name in present}
        hashes.save()
    of_files = manifest["files"]
    if gone := [name for name in synthetic if name not in manifest["cases"]]:
        raise RuntimeError(
            f"synthetic cases were removed from {dataset_name} since this training began ({first_names(gone)}); train "
            f"anew, or restore the splits and cases that it began with and repeat the validation with --val"
        )
    for name in synthetic:
        contents[name] = {file: of_files[file]["after"] for file in manifest["cases"][name]["files"]}
    return contents


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two records, for a message; empty if nothing does."""
    parts = []
    for kind, words in _KINDS.items():
        lost, new = set(before[kind]) - set(now[kind]), set(now[kind]) - set(before[kind])
        if lost:
            parts.append(f"{first_names(lost)} no longer among the {words} cases")
        if new:
            parts.append(f"{first_names(new)} new among the {words} cases")
        digests = before["contents"].get(kind), now["contents"].get(kind)
        if not lost and not new and None not in digests and digests[0] != digests[1]:
            parts.append(f"the files of the {words} cases have other contents")
    return ", ".join(parts)


def pretrained_file(arguments: Sequence[str] | None = None) -> str | None:
    """The file that ``-pretrained_weights`` names on nnU-Net's command line, which does not tell its trainer."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("-pretrained_weights")
    parser.add_argument("-p")  # which would else be read as an abbreviation
    try:
        return parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)[0].pretrained_weights
    except SystemExit:  # the option without a file: nnU-Net's own parser says so
        return None


def real_cases(record: Mapping[str, Any]) -> str:
    """A short name for the real training and validation cases of a record, for debug.json: ids, and contents if known.

    Two trainings had the same cases if both parts are the same, or the first is and a second is ``unknown``.
    """
    kinds = ("real", "validation")
    contents = [record["contents"].get(kind) for kind in kinds]
    of_contents = "unknown" if None in contents else sha256("".join(map(str, contents)).encode()).hexdigest()[:16]
    ids = sha256(json.dumps([record[kind] for kind in kinds]).encode()).hexdigest()[:16]
    return f"{ids} {of_contents}"
