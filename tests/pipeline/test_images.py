"""``difflung_augment`` looks at the images once before any training: it refuses copies, and warns of likenesses."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.paths import cache_folder
from nnunet_difflung.pipeline import images
from nnunet_difflung.pipeline.first_look import FirstLook
from nnunet_difflung.pipeline.planning import readable_cases
from nnunet_difflung.runtime.share import Share
from tests.support.anatomies import chest, labelled, write_chests
from tests.support.commands import prepared
from tests.support.tiny import write_array

SPLITS = [
    {"train": ["p001_s0", "p002_s0", "p003_s0"], "val": ["p004_s0", "p005_s0", "p006_s0"]},
    {"train": ["p004_s0", "p005_s0", "p006_s0"], "val": ["p001_s0", "p002_s0", "p003_s0"]},
]
FAST = ["-d", "801", "-f", "0", "--preset", "fast", "--method", "copy_paste", "--gate", "report", "-device", "cpu"]


@pytest.fixture
def folders(tmp_path, monkeypatch) -> tuple[Path, Path, Path]:
    return prepared(tmp_path, monkeypatch)


def write(folder: Path, splits: list[dict] | None = SPLITS, **other: np.ndarray) -> None:
    slices = {f"p{n:03d}_s0": chest(n, size=96) for n in range(1, 7)} | other
    write_chests(folder / "Dataset801_Tiny", slices, splits)


def augment(*options: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "nnunet_difflung.commands.augment", *FAST, *options]
    return subprocess.run(words, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--dry-run", "-f", "1")])
def test_equal_voxels_under_two_ids_are_refused_before_any_training(folders, options):
    write(folders[0], p005_s0=chest(2, size=96).astype(np.float32))  # another file, the same voxels
    done = augment("--method", "cbmat", *options)
    assert done.returncode == 2, done.stdout + done.stderr
    assert (
        "Error: in fold 0 of Dataset801_Tiny, the training case p002_s0 and the validation case p005_s0 hold the same "
        "voxels; remove one of the two cases, or put both on the same side of every fold in splits_final.json"
    ) in done.stderr
    assert not list(folders[2].rglob("fold_*"))


def test_without_a_split_file_the_remedy_is_a_file_of_patients(folders, tmp_path):
    write(folders[0], splits=None, p005_s0=chest(2, size=96).astype(np.float32))
    done = augment("--dry-run")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "say with --patients FILE (columns case,patient) that they belong to one patient" in done.stderr
    patients = tmp_path / "patients.csv"
    patients.write_text("case,patient\n" + "".join(f"p{n:03d}_s0,{2 if n == 5 else n}\n" for n in range(1, 7)))
    done = augment("--dry-run", "--patients", str(patients))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_suspicion_is_said_at_both_ends_and_recorded(folders):
    write(folders[0], p005_s0=chest(2, 3, 96))
    done = augment("--max-synthetic", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("Warning: 1 pair of cases in training and validation of Dataset801_Tiny") == 2
    assert "difflung_audit -d 801 --images" in done.stderr
    report = json.loads((folders[2] / "Dataset801_Tiny/DiffLung__copy_paste/augment_report.json").read_text())
    assert report["images"]["suspicious_pairs_of_cases"] == 1
    assert report["images"]["most_similar"][0].startswith(
        "fold 0 (and 1): training p002_s0, validation p005_s0: similarity"
    )


def test_different_people_raise_no_suspicion(folders, capsys):
    write(folders[0])
    look()
    assert "Warning" not in capsys.readouterr().err


def test_the_same_content_is_looked_at_once(folders, monkeypatch, capsys):
    write(folders[0], p005_s0=chest(2, 3, 96))
    look()
    warning = capsys.readouterr().err.partition("Warning")[2]
    assert "may show the same patient" in warning
    monkeypatch.setattr(images, "looking_at", None)
    look()
    assert capsys.readouterr().err.partition("Warning")[2] == warning
    write(folders[0], p005_s0=chest(5, 1, 96))
    with pytest.raises(TypeError):
        look()


def test_the_same_voxels_are_looked_at_again_once_a_header_says_how_thick_the_slices_are(folders):
    """At 1 mm one slice in five is compared, so that copies which begin at another slice are not found."""
    write(folders[0])
    slices = np.stack([chest(2, z, 96) for z in range(7)])

    def write_volumes(mm: float) -> None:
        for identifier, image in (("p002_s0", slices[:-1]), ("p005_s0", slices[1:])):
            label = np.stack([labelled(part) for part in image])
            for name, array in ((f"imagesTr/{identifier}_0000", image), (f"labelsTr/{identifier}", label)):
                write_array(folders[0] / "Dataset801_Tiny" / f"{name}.nii.gz", array, (mm, 2.2, 2.2))

    write_volumes(1.0)
    look()
    write_volumes(5.0)
    with pytest.raises(BadInput, match="p002_s0 and the validation case p005_s0 hold the same voxels"):
        look()


def test_another_fold_that_is_not_wanted_is_not_refused(folders):
    splits = [SPLITS[0], {"train": ["p001_s0"], "val": ["p003_s0"]}]
    write(folders[0], splits, p003_s0=chest(1, size=96).astype(np.float32))
    look()


def look() -> None:
    """What ``difflung_augment -f 0`` does once its cases are cached."""
    raw = open_raw_dataset("801")
    cache = build_cache(raw, cache_folder(raw.name), progress=False)
    with images.images_begun(raw, cache, 1, Share()) as looked_at:
        images.look_at_images(raw, cache, [0], looked_at, Share(), remember=True)


def test_what_is_sent_to_workers_does_not_make_them_import_torch(folders, tmp_path):
    write(folders[0])
    raw = open_raw_dataset("801")
    caches = readable_cases(raw, 1, False), build_cache(raw, cache_folder(raw.name), progress=False)
    look = FirstLook(raw.roles)
    sent = tmp_path / "sent"
    sent.write_bytes(pickle.dumps([raw, look, *(cases.reader(i) for cases in caches for i in raw.cases)]))
    script = f"import pickle, sys; pickle.load(open({str(sent)!r}, 'rb')); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stdout + done.stderr
