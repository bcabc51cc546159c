"""nnU-Net's dataset fingerprint of the real cases alone."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from nnunet_difflung.dataset.contents import contents_of
from nnunet_difflung.injection.dataset_lock import HIDDEN
from nnunet_difflung.paths import NNUNET_PREPROCESSED
from nnunet_difflung.runtime.files import json_bytes, read_json
from nnunet_difflung.runtime.messages import quiet

if TYPE_CHECKING:
    from nnunet_difflung.dataset.raw_dataset import RawDataset


def staged_fingerprint(raw: RawDataset) -> Path:
    """Path of the fingerprint until it is injected; the name depends on what the real files hold."""
    digest = hashlib.sha256(json_bytes(contents_of(raw))).hexdigest()
    return raw.folder / HIDDEN / "fingerprint" / f"{digest[:16]}.json"


def counted_cases(fingerprint: Path) -> int:
    """Number of cases from which nnU-Net computed a fingerprint; 0 if the file does not say."""
    try:
        return len(read_json(fingerprint)["spacings"])
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def extract(raw: RawDataset, target: Path, processes: int) -> None:
    """Runs nnU-Net's own extractor over the real cases and writes its file to ``target``.

    Args:
        raw: the dataset.
        target: path from ``staged_fingerprint``; its folder is emptied first.
        processes: number of worker processes; 1 uses this process, since starting another process that imports nnU-Net
            takes longer than reading a small dataset.
    """
    from multiprocessing.pool import ThreadPool

    from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor as nnunet

    shutil.rmtree(target.parent, ignore_errors=True)
    target.parent.mkdir(parents=True)
    real = {i: {"images": list(case.images), "label": case.label} for i, case in sorted(raw.cases.items())}
    replaced = (NNUNET_PREPROCESSED, "multiprocessing", "get_filenames_of_train_images_and_targets")
    before = {name: getattr(nnunet, name) for name in replaced}
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        nnunet.nnUNet_preprocessed = scratch  # it writes there instead of into the user's folder
        nnunet.get_filenames_of_train_images_and_targets = lambda *_: real
        if processes <= 1:
            nnunet.multiprocessing = SimpleNamespace(get_context=lambda _: SimpleNamespace(Pool=ThreadPool))
        try:
            extractor = nnunet.DatasetFingerprintExtractor(raw.name, max(1, processes))
            extractor.dataset = real
            extractor.show_progress_bar = not quiet()
            extractor.run(overwrite_existing=True)
        finally:
            for name, value in before.items():
                setattr(nnunet, name, value)
        os.replace(Path(scratch) / raw.name / "dataset_fingerprint.json", target)
