"""What must hold before synthetic cases are added: checked before any training, and again when they are added."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from nnunet_difflung.dataset.layout import check_files
from nnunet_difflung.dataset.places import check_links
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.splits import SYNTHETIC_PREFIX, is_synthetic, real_only
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.commit import COMMIT, ORIGINALS
from nnunet_difflung.injection.dataset_lock import HIDDEN, hidden_places, lock_file
from nnunet_difflung.injection.leaks import first_names
from nnunet_difflung.injection.manifest import FINGERPRINT, MANIFEST, PREPROCESSED, resolve
from nnunet_difflung.paths import DATASET, SPLITS, dataset_id, preprocessed_folder
from nnunet_difflung.runtime.files import read_json, sha256
from nnunet_difflung.runtime.locks import check_lockable
from nnunet_difflung.runtime.writable import check_folders

_PARTS = ("imagesTr", "labelsTr")


def written_folders(folder: Path) -> list[Path]:
    """The folders of a dataset that a change of it writes into."""
    inside = [folder / name for name in (HIDDEN, COMMIT, ORIGINALS, *_PARTS)]
    return [folder, *inside, preprocessed_folder(folder.name)]


def check_recorded(folder: Path, manifest: dict | None) -> None:
    """Compares a dataset's files with what earlier commands recorded, before anything else reads the dataset.

    Args:
        folder: the raw dataset's folder.
        manifest: its manifest; None if it has none.

    Raises:
        BadInput: files named like synthetic cases are unknown, real cases were added or removed since, synthetic files
            are missing, or recorded files were changed.
    """
    _refuse_unknown(folder, manifest)
    if manifest is not None:
        _refuse_other_cases(folder, manifest)
        _refuse_missing(folder, manifest)
        _refuse_changed(folder, manifest)


def check_unchanged(raw: RawDataset, manifest: dict | None) -> None:
    """Refuses a dataset if somebody else has changed its cases, patients, recorded files or folds.

    Args:
        raw: the dataset as it was opened, which may be hours ago.
        manifest: its manifest; None if it has none.

    Raises:
        BadInput: names the change and what to do.
    """
    check_files(raw.cases.values(), raw.name)
    check_recorded(raw.folder, manifest)
    if manifest is not None:
        _refuse_other_patients(raw, manifest)
    dataset_json, synthetic = read_json(raw.folder / DATASET), len(manifest["cases"]) if manifest else 0
    if dataset_json["numTraining"] != len(raw.cases) + synthetic:
        raise BadInput(
            f"{raw.folder / DATASET} says numTraining {dataset_json['numTraining']}, expected "
            f"{len(raw.cases)} real and {synthetic} synthetic cases; correct numTraining and run the "
            f"same command again"
        )
    _refuse_other_folds(raw)
    _refuse_other_fingerprint(raw)


def _unknown_files(folder: Path, manifest: dict | None) -> list[str]:
    recorded = {name for case in manifest["cases"].values() for name in case["files"]} if manifest else set()
    return sorted(
        f"{part}/{path.name}"
        for part in _PARTS
        for path in (folder / part).glob(f"{SYNTHETIC_PREFIX}*")
        if f"{part}/{path.name}" not in recorded
    )


def _refuse_unknown(folder: Path, manifest: dict | None) -> None:
    """Files and ids that begin like those of synthetic cases, but that no command of this package has recorded."""
    unknown = _unknown_files(folder, manifest)
    copy = preprocessed_folder(folder.name) / MANIFEST
    if manifest is None and copy.is_file():
        raise BadInput(
            f"{folder / MANIFEST} is missing, but {copy} records synthetic cases of this dataset; copy it into the "
            f"raw dataset's folder, or take the cases out of both folders: difflung_remove -d {dataset_id(folder.name)}"
        )
    if unknown:
        raise BadInput(
            f"{folder} holds {len(unknown)} files that begin with {SYNTHETIC_PREFIX!r} and are recorded in no "
            f"{MANIFEST} ({first_names(unknown)}): names of this kind are kept for synthetic cases; rename the "
            f"cases if they are yours, or move the files to another folder (and correct numTraining in {DATASET})"
        )
    cases = manifest["cases"] if manifest else {}
    for path in (folder / SPLITS, preprocessed_folder(folder.name) / SPLITS):
        for fold, split in enumerate(_splits(path)):
            listed = {name for side in ("train", "val") for name in split[side] if is_synthetic(name)}
            if listed - set(cases):
                raise BadInput(
                    f"{path} fold {fold} lists {first_names(listed - set(cases))}, which no {MANIFEST} records as "
                    f"synthetic cases; take these ids out of the file"
                )


def _splits(path: Path) -> list[dict]:
    """Content of a split file; empty if there is none, or if it is damaged, which other checks report."""
    try:
        content = read_json(path)
        return [split for split in content if all(isinstance(split[side], list) for side in ("train", "val"))]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _refuse_other_cases(folder: Path, manifest: dict) -> None:
    present = real_cases(folder)
    recorded = set(manifest["patients"])
    added, removed = present - recorded, recorded - present
    if not present or not (added or removed):
        return
    changes = [
        f"{first_names(names)} {'was' if len(names) == 1 else 'were'} {what}"
        for names, what in ((added, "added"), (removed, "removed"))
        if names
    ]
    number = dataset_id(folder.name)
    if not manifest["cases"]:
        raise BadInput(
            f"{folder}: {' and '.join(changes)} after difflung_augment had found nothing to add to {len(recorded)} "
            f"real cases; run difflung_remove -d {number} (it takes out that record and keeps your changes), check "
            f"{DATASET} and {SPLITS}, and run difflung_augment -d {number} again"
        )
    raise BadInput(
        f"{folder}: {' and '.join(changes)} after the synthetic cases had been made from {len(recorded)} real cases; "
        f"run difflung_remove -d {number} (it takes out the synthetic cases and keeps your changes), check "
        f"{DATASET} and {SPLITS}, and run difflung_augment -d {number} again: it uses the generators whose training "
        f"cases are still the same and names the others, which have to be trained anew"
    )


def real_cases(folder: Path) -> set[str]:
    """Ids of the real cases by the names of their labels; empty if ``dataset.json`` cannot be read."""
    try:
        content = read_json(folder / DATASET)
        if "dataset" in content:
            return {name for name in content["dataset"] if not is_synthetic(name)}
        ending = content["file_ending"]
        labels = (path.name.removesuffix(ending) for path in (folder / "labelsTr").glob(f"[!.]*{ending}"))
        return {name for name in labels if not is_synthetic(name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _refuse_missing(folder: Path, manifest: dict) -> None:
    for identifier, case in sorted(manifest["cases"].items()):
        for name in case["files"]:
            if not (folder / name).is_file():
                raise BadInput(
                    f"{folder / name} is missing, a file of the synthetic case {identifier}; restore it from a copy, "
                    f"or make the synthetic cases anew: difflung_remove -d {dataset_id(folder.name)}, then "
                    f"difflung_augment (trained generators are used again)"
                )


def _refuse_changed(folder: Path, manifest: dict) -> None:
    for name, hashes in manifest["files"].items():
        path = resolve(folder, name)
        if path.name == DATASET or name == SPLITS or (name == PREPROCESSED + SPLITS and path.is_file()):
            actual = sha256(path) if path.is_file() else None
            if actual != hashes["after"]:
                raise BadInput(
                    f"{path} was {'changed' if actual else 'deleted'} after synthetic cases were injected; undo that, "
                    f"or run difflung_remove -d {dataset_id(folder.name)} "
                    f"({'which keeps your change' if actual else 'which brings the original back'}) and "
                    f"difflung_augment again"
                )


def _refuse_other_patients(raw: RawDataset, manifest: dict) -> None:
    recorded = manifest["patients"]
    different = sorted(name for name, patient in raw.patients.items() if recorded.get(name) != patient)
    if not different:
        return
    name = different[0]
    raise BadInput(
        f"{raw.folder}: case {name} is read as patient {raw.patients[name]!r} now, but was read as patient "
        f"{recorded.get(name)!r} when the synthetic cases were made ({len(different)} such cases); tell patients as in "
        f"the earlier command, or, if the reading of now is the right one, run difflung_remove -d "
        f"{dataset_id(raw.name)} and difflung_augment again"
    )


def _refuse_other_folds(raw: RawDataset) -> None:
    """Compares the folds of the run with both split files, as nnU-Net does, which stops where they differ."""
    raw_file, copy = (resolve(raw.folder, name) for name in (SPLITS, PREPROCESSED + SPLITS))
    for path in (raw_file, copy):
        if path.is_file() and not same_folds(real_only(raw.splits), real_only(read_json(path))):
            if path == copy and raw_file.is_file() and same_folds(real_only(raw.splits), _real_splits(raw_file)):
                raise BadInput(
                    f"{copy} has other folds than {raw_file}; nnU-Net would train with the first and stop in planning "
                    f"since they differ: copy the file with the folds that you want over the other one"
                )
            raise BadInput(
                f"{path} has other folds than those that the synthetic cases were made for; restore it, or run the "
                f"same command again, which makes the cases for the new folds"
            )


def _real_splits(path: Path) -> list[dict]:
    return real_only(read_json(path))


def same_folds(expected: list[dict], actual: list[dict]) -> bool:
    """Compares splits as nnU-Net does for raw and preprocessed ones: the expected folds, as sets; more may follow."""
    pairs = zip(expected, actual, strict=False)
    return len(actual) >= len(expected) and all(set(a[s]) == set(b[s]) for a, b in pairs for s in ("train", "val"))


def _refuse_other_fingerprint(raw: RawDataset) -> None:
    """A fingerprint of other cases, which nnU-Net would use for its plans without a word."""
    path = resolve(raw.folder, FINGERPRINT)
    try:
        number = len(read_json(path)["spacings"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    if number and number != len(raw.cases):
        raise BadInput(
            f"{path} was made from {number} cases, but {raw.name} has {len(raw.cases)} real cases; nnU-Net would plan "
            f"with it: delete the file (it is made anew from the real cases), and plan again with "
            f"nnUNetv2_plan_and_preprocess -d {dataset_id(raw.name)} afterwards"
        )


def check_places(raw: RawDataset, own: Iterable[Path] = ()) -> None:
    """Checks that what is written stays in the dataset, can be written, and can be locked; writes nothing.

    Args:
        raw: the dataset.
        own: further files and folders of this package that will be written, such as those of generators.

    Raises:
        BadInput: names the link to another place, the folder that is not writable, or the lock.
    """
    own = list(own)
    check_links(raw.name, [*written_folders(raw.folder), *own], [*hidden_places(raw.folder), *own])
    check_folders(written_folders(raw.folder))
    check_lockable(raw.folder / DATASET, lock_file(raw.folder))
