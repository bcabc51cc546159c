"""Tries the commands on datasets of every form that nnU-Net accepts.

    python -m tests.faults.sweep --datasets 200 --seed 0 -o docs/results/sweep.json

Each round draws a form (file format, dimensions, voxel types, direction, channels, labels, case ids, folds, reader),
writes a tiny dataset of it, and asks nnU-Net's own integrity check. Whatever nnU-Net accepts must go through
``difflung_augment``, nnU-Net's check and preprocessing, and ``difflung_remove``, after which every file of the dataset
is as it was; or ``difflung_augment`` refuses it in one line with exit code 2 and leaves every file as it was. With
``--train N`` every Nth dataset is also trained for two iterations, predicted and evaluated by nnU-Net.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import json
import os
import shutil
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

import numpy as np

from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.paths import PATH_VARIABLES
from nnunet_difflung.runtime.files import write_json
from tests.faults.records import meta, nnunet_folders
from tests.support.tiny import make_image, make_masks

NAME = "Dataset801_Swept"
ITK = (".nii.gz", ".nii", ".nrrd", ".mha")
PICTURES = (".png", ".bmp")
CHOICES: dict[str, tuple] = {
    "ending": (*ITK, ".nii.gz", ".png", ".bmp", ".tif", ".tiff"),
    "shape": ("slices", "slices", "2d files", "volumes", "one-slice and several-slice volumes"),
    "dtype": ("int16", "int16", "int16", "int32", "float32", "float64", "uint16", "uint8", "int64"),
    "label_dtype": ("uint8", "uint8", "int16", "uint16", "float32", "float64", "int32"),
    "direction": ("identity", "identity", "flipped", "sagittal", "oblique"),
    "reader": (None, None, None, "SimpleITKIO", "NibabelIO", "NibabelIOWithReorient"),
    "channels": (("CT",), ("CT",), ("CT", "mask"), ("CT", "extra"), ("zscore",), ("noNorm",), ("rescale_to_0_1",)),
    "labels": ("plain", "plain", "ignore", "shuffled", "strings", "left and right", "odd names", "regions", "lobes"),
    "ids": ("plain", "plain", "spaces", "umlauts", "dots", "capitals", "numbers", "long"),
    "splits": (True, True, False),
    "listed": ("no", "no", "no", "relative", "absolute"),
    "scaled": (False, False, False, True),
    "links": (False, False, False, True),
    "rgb": (False, False, True),
}
PLAIN = {"background": 0, "normal_lung": 1, "emphysema": 2, "ILD": 3}
LABELS: dict[str, dict] = {
    "plain": PLAIN,
    "ignore": {**PLAIN, "ignore": 4},
    "shuffled": {"ILD": 3, "emphysema": 2, "background": 0, "normal_lung": 1},
    "strings": {name: str(value) for name, value in PLAIN.items()},
    "left and right": {"background": 0, "left lung": 1, "right lung": 4, "emphysema": 2, "ILD": 3},
    "odd names": {"background": 0, "normal lung (gesund)": 1, "肺气肿 = emphysème": 2, "-ILD/'fibrosis'": 3},
    "regions": {"background": 0, "lung": [1, 2, 3], "lesion": [2, 3], "ILD": 3},
    "lobes": {"background": 0, "lung_upper_lobe_left": 1, "lung_lower_lobe_left": 4, "emphysema": 2, "ILD": 3},
}


@dataclass(frozen=True)
class Form:
    """A form of dataset; the attributes are the keys of ``CHOICES``."""

    ending: str
    shape: str
    dtype: str
    label_dtype: str
    direction: str
    reader: str | None
    channels: tuple[str, ...]
    labels: str
    ids: str
    splits: bool
    listed: str
    scaled: bool
    links: bool
    rgb: bool


def draw(rng: np.random.Generator) -> Form:
    """A random form; combinations that cannot be written are changed to the nearest that can."""
    chosen = {name: values[int(rng.integers(len(values)))] for name, values in CHOICES.items()}
    ending = chosen["ending"]
    if ending in PICTURES:
        chosen |= {"shape": "2d files", "dtype": "uint8" if ending == ".bmp" else str(rng.choice(["uint8", "uint16"]))}
        chosen |= {"label_dtype": "uint8", "direction": "identity", "reader": None}
        if chosen["rgb"]:
            chosen |= {"channels": ("R", "G", "B"), "dtype": "uint8"}
    elif ending in (".tif", ".tiff"):
        if chosen["shape"] in ("slices", "2d files"):
            chosen |= {"shape": "volumes"}
        chosen |= {"direction": "identity", "reader": None}
    else:
        if not ending.startswith(".nii"):
            chosen["reader"] = None
        if chosen["shape"] == "2d files":
            chosen |= {"direction": "identity", "reader": None}
        if chosen["label_dtype"] == "int32" and ending == ".mha":
            chosen["label_dtype"] = "int16"
    if not ending.startswith(".nii") or chosen["dtype"] == "int64":
        chosen["scaled"] = False
    if ending not in PICTURES:
        chosen["rgb"] = False
    if chosen["dtype"].startswith("u") and rng.random() < 0.8:  # else values that are no HU under the name CT
        chosen["channels"] = tuple("zscore" if name == "CT" else name for name in chosen["channels"])
    return Form(**chosen)


def write(form: Form, raw: Path, seed: int) -> Path:
    """Writes a dataset of the form with five patients; returns its folder."""
    folder = raw / NAME
    identifiers = {}
    for patient in range(1, 6):
        rng = np.random.default_rng([seed, patient])
        several = form.shape == "one-slice and several-slice volumes"
        cases, depth = (1, 1 + 4 * (patient % 2) if several else 5) if "volumes" in form.shape else (2, 1)
        for index in range(cases):
            identifier = _identifier(form.ids, patient, index, cases)
            identifiers[identifier] = patient
            body, label = make_masks(rng, depth, (36, 41))
            image = make_image(rng, body, label, 1)[0]
            _write_case(form, folder, identifier, image, _labelled(form, body, label))
    _write_json(form, folder, list(identifiers))
    patients = {identifier: f"patient {number}" for identifier, number in identifiers.items()}
    (folder / "patients.json").write_text(json.dumps(patients), encoding="utf-8")
    if form.splits:
        content = []
        for fold in range(5):
            held_out = [i for i, patient in identifiers.items() if patient == fold + 1]
            content.append({"train": [i for i in identifiers if i not in held_out], "val": held_out})
        (folder / "splits_final.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def _identifier(kind: str, patient: int, index: int, cases: int) -> str:
    name = {
        "plain": f"lung_{patient:03d}",
        "spaces": f"lung {patient:03d}",
        "umlauts": f"Lunge_für_{patient:03d}",
        "dots": f"1.2.840.{patient:03d}",
        "capitals": f"LUNG-{patient:03d}",
        "numbers": f"{patient:05d}",
        "long": f"{'thorax' * 12}_{patient:03d}",
    }[kind]
    return name if cases == 1 else f"{name}_s{index:02d}"


def _labelled(form: Form, body: np.ndarray, label: np.ndarray) -> np.ndarray:
    label = label.copy()
    half = np.arange(label.shape[2]) < label.shape[2] // 2
    if form.labels in ("left and right", "lobes"):
        label[(label == 1) & half] = 4
    if form.labels == "ignore":
        label[body & (label == 0) & half] = 4
    return label


def _write_case(form: Form, folder: Path, identifier: str, hu: np.ndarray, label: np.ndarray) -> None:
    for channel, name in enumerate(form.channels if not form.rgb else ("RGB",)):
        values = _values(form, name, hu, label)
        path = folder / "imagesTr" / f"{identifier}_{channel:04d}{form.ending}"
        _write_file(form, path, values, form.scaled and name not in ("mask",))
    _write_file(form, folder / "labelsTr" / f"{identifier}{form.ending}", label.astype(_label_dtype(form)), False)


def _label_dtype(form: Form) -> str:
    return form.label_dtype if form.ending in ITK else "uint8"


def _values(form: Form, channel: str, hu: np.ndarray, label: np.ndarray) -> np.ndarray:
    if channel == "mask":
        return (label > 0).astype(form.dtype)
    if channel == "extra":
        hu = 0.5 * hu
    kind = np.dtype(form.dtype)
    if kind == np.uint8:
        return np.rint(np.clip((hu + 1024) / 1500, 0, 1) * 255).astype(np.uint8)
    if kind.kind == "u":
        return np.rint(hu + 1024).clip(0).astype(kind)
    return hu.astype(kind) if kind.kind == "f" else np.rint(hu).astype(kind)


def _write_file(form: Form, path: Path, array: np.ndarray, scaled: bool) -> None:
    target = path
    if form.links:
        target = path.parents[2] / "elsewhere" / path.parent.name / path.name
        path.parent.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _write_array(form, target, array, scaled)
    if form.ending in (".tif", ".tiff"):
        stem = path.name.removesuffix(form.ending)
        stem = stem[:-5] if path.parent.name == "imagesTr" else stem
        (path.parent / f"{stem}.json").write_text(json.dumps({"spacing": [5.0, 0.8, 0.8]}), encoding="utf-8")


def _write_array(form: Form, path: Path, array: np.ndarray, scaled: bool) -> None:
    if form.ending in PICTURES:
        from PIL import Image

        picture = array[0]
        if form.rgb and path.parent.name == "imagesTr":
            picture = np.stack([picture] * 3, -1)
        Image.fromarray(picture).save(path)
    elif form.ending in (".tif", ".tiff"):
        import tifffile

        tifffile.imwrite(path, array, photometric="minisblack")
    else:
        _write_itk(form, path, array)
        if scaled:
            _scale(path)


def _write_itk(form: Form, path: Path, array: np.ndarray) -> None:
    import SimpleITK as sitk

    if form.shape == "2d files":
        image = sitk.GetImageFromArray(array[0])
        image.SetSpacing((0.8, 0.7))
    else:
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((0.8, 0.7, 5.0))
        image.SetOrigin((-11.5, 7.25, 100.0))
        image.SetDirection(_direction(form.direction).ravel().tolist())
    sitk.WriteImage(image, str(path), True)


def _direction(name: str) -> np.ndarray:
    if name == "flipped":
        return np.diag([-1.0, -1.0, 1.0])
    if name == "sagittal":
        return np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]).round()
    if name == "oblique":
        c, s = np.cos(0.2), np.sin(0.2)
        return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return np.eye(3)


def _scale(path: Path) -> None:
    """Stores the values of a NIfTI file with a slope and an intercept."""
    import nibabel

    image = nibabel.load(path)
    data = np.asanyarray(image.dataobj)
    stored = nibabel.Nifti1Image(((data + 1024.0) / 2).round().astype(np.int16), image.affine, image.header)
    stored.set_data_dtype(np.int16)
    stored.header.set_slope_inter(2.0, -1024.0)
    nibabel.save(stored, path)


def _write_json(form: Form, folder: Path, identifiers: Sequence[str]) -> None:
    names = [{"mask": "noNorm", "extra": "zscore"}.get(name, name) for name in form.channels]
    content: dict = {
        "channel_names": {str(k): name for k, name in enumerate(names)},
        "labels": LABELS[form.labels],
        "numTraining": len(identifiers),
        "file_ending": form.ending,
    }
    if form.labels == "regions":
        content["regions_class_order"] = [1, 2, 3]
    if form.reader:
        content["overwrite_image_reader_writer"] = form.reader
    if form.listed != "no":
        start = "." if form.listed == "relative" else str(folder)
        files = len(form.channels) if not form.rgb else 1
        content["dataset"] = {
            i: {
                "images": [f"{start}/imagesTr/{i}_{k:04d}{form.ending}" for k in range(files)],
                "label": f"{start}/labelsTr/{i}{form.ending}",
            }
            for i in identifiers
        }
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")


@contextlib.contextmanager
def in_this_process() -> Iterator[None]:
    """nnU-Net's pools are pools of threads, since starting processes takes seconds."""
    from multiprocessing.pool import ThreadPool

    class Context:
        Pool = ThreadPool

    with mock.patch("multiprocessing.get_context", return_value=Context):
        yield


@dataclass
class Said:
    """How a call ended: its exit code (None after an exception that is no refusal), and what it printed."""

    code: int | None
    text: str
    trace: str = ""


def call(work: Callable[[], object]) -> Said:
    """Calls a command's entry or a function of nnU-Net in this process."""
    out, error = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            work()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        return Said(code, out.getvalue() + error.getvalue())
    except BaseException as problem:
        if isinstance(problem, KeyboardInterrupt):
            raise
        return Said(None, out.getvalue() + error.getvalue(), "".join(traceback.format_exception(problem)))
    return Said(0, out.getvalue() + error.getvalue())


def integrity(folder: Path) -> Said:
    """nnU-Net's own check."""
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    with in_this_process():
        return call(lambda: verify_dataset_integrity(str(folder), num_processes=1))


def prepare(configuration: str = "2d") -> Said:
    """nnU-Net's fingerprint, plans and preprocessing of one configuration."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    def work() -> None:
        extract_fingerprints([801], num_processes=1, check_dataset_integrity=False, clean=False, verbose=False)
        plan_experiments([801])
        preprocess([801], configurations=[configuration], num_processes=[1], verbose=False)

    with in_this_process():
        return call(work)


AUGMENT = ["-d", "801", "-f", "0", "--method", "copy_paste", "-device", "cpu", "--max-synthetic", "2", "-np", "1"]


def augment(more: Sequence[str] = ()) -> Said:
    """``difflung_augment`` by pasting, which needs no training."""
    from nnunet_difflung.commands.augment import entry

    return call(lambda: entry([*AUGMENT, "--gate", "report", *more]))


def remove() -> Said:
    """``difflung_remove``."""
    from nnunet_difflung.commands.remove import entry

    return call(lambda: entry(["-d", "801"]))


def tree(folder: Path) -> dict[str, tuple]:
    """Type, mode and content of everything in a folder but our hidden one."""
    rows = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.split(os.sep)[0] in (".difflung", "difflung_manifest.json"):
            continue
        content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        rows[name] = (path.is_symlink(), path.stat().st_mode, content)
    return rows


def changed_cases(folder: Path) -> list[str]:
    """Faults of the synthetic cases: voxels changed away from the lesion, geometry or type unlike the host's."""
    from nnunet_difflung.dataset.raw_dataset import open_raw_dataset

    manifest = read_manifest(folder)
    raw = open_raw_dataset("801")
    reader, problems = raw.reader(), []
    ending = raw.dataset_json["file_ending"]
    for identifier, case in manifest["cases"].items():
        images = sorted(str(p) for p in (folder / "imagesTr").glob(f"{identifier}_????{ending}"))
        image, properties = reader.read_images(images)
        label, _ = reader.read_seg(str(folder / "labelsTr" / f"{identifier}{ending}"))
        host_image, host_properties = raw.read_image(case["host"])
        host_label, _ = raw.read_label(case["host"])
        label = np.rint(label[0]).astype(int)
        if image.shape != host_image.shape or properties["spacing"] != host_properties["spacing"]:
            problems.append(f"{identifier}: shape or spacing unlike the host's")
            continue
        changed = label != host_label
        if not changed.any():
            problems.append(f"{identifier}: no label was changed")
        if not set(np.unique(label)) <= {int(v) for v in raw.roles.values.values()} | {0, raw.roles.ignore}:
            problems.append(f"{identifier}: unknown label values {np.unique(label)}")
        from scipy import ndimage

        near = ndimage.binary_dilation(changed, np.ones((3, 3, 3)), 6)
        if (image != host_image)[:, ~near].any():
            problems.append(f"{identifier}: voxels far from the lesion were changed")
        if not (image != host_image).any():
            problems.append(f"{identifier}: no voxel was changed")
    return problems


def round_of(form: Form, folder: Path, seed: int, train: bool) -> dict:
    """Puts one dataset through the commands.

    Returns:
        ``outcome``: ``refused by nnU-Net``, ``refused``, ``done``, or ``FAULT``; ``said``: the line, or the fault.
    """
    raw, _, _ = (folder / name for name in PATH_VARIABLES)
    dataset = write(form, raw, seed)
    before = tree(raw)
    accepted = integrity(dataset)
    said = augment()
    lines = [line for line in said.text.splitlines() if line.startswith(("Error:", "Failed:"))]
    if accepted.code != 0:
        wrong = said.code is None
        return _row("FAULT" if wrong else "refused by nnU-Net", said.trace[-1500:] if wrong else "".join(lines))
    if said.code == 2 and len(lines) == 1 and tree(raw) == before:
        return _row("refused", lines[0])
    if said.code != 0:
        return _row("FAULT", f"augment ended with {said.code}: {said.trace[-1500:] or said.text[-600:]}")
    if read_manifest(dataset) is None or not read_manifest(dataset)["cases"]:
        return _row("FAULT", f"no synthetic case: {said.text[-600:]}")
    problems = changed_cases(dataset)
    for what, work in (("integrity", lambda: integrity(dataset)), ("preprocessing", prepare)):
        result = work()
        if result.code != 0:
            problems.append(f"{what} fails after augmenting: {result.trace[-700:] or result.text[-300:]}")
    if train and not problems:
        problems += trained(dataset)
    end = remove()
    if end.code != 0:
        problems.append(f"remove ended with {end.code}: {end.trace[-700:] or end.text[-300:]}")
    elif tree(raw) != before:
        after = tree(raw)
        differing = sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))
        problems.append(f"after removal these differ: {differing[:6]}")
    return _row("FAULT", "; ".join(problems)) if problems else _row("done", "")


def _row(outcome: str, said: str) -> dict:
    return {"outcome": outcome, "said": said}


def trained(dataset: Path) -> list[str]:
    """Faults of two iterations of training, of a prediction and its evaluation."""
    import torch
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics_on_folder2
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.run.run_training import get_trainer_from_args

    results = Path(os.environ["nnUNet_results"]) / "predicted"
    held_out = results / "images"

    def work() -> None:
        trainer = get_trainer_from_args("801", "2d", 0, "nnUNetTrainerDiffLungCopyPaste", device=torch.device("cpu"))
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
        trainer.run_training()
        content = json.loads((dataset / "dataset.json").read_text(encoding="utf-8"))
        labels = results / "labels"
        for part in (held_out, labels, results / "out"):
            part.mkdir(parents=True)
        split = json.loads((Path(os.environ["nnUNet_preprocessed"]) / NAME / "splits_final.json").read_text("utf-8"))
        for identifier in split[0]["val"]:
            for file in (dataset / "imagesTr").glob(f"{identifier}_????{content['file_ending']}"):
                shutil.copy(file, held_out)
            for part, place in (("imagesTr", held_out), ("labelsTr", labels)):
                if (dataset / part / f"{identifier}.json").is_file():
                    shutil.copy(dataset / part / f"{identifier}.json", place)
            shutil.copy(dataset / "labelsTr" / f"{identifier}{content['file_ending']}", labels)
        predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False, use_mirroring=False)
        predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), "checkpoint_final.pth")
        predictor.predict_from_files_sequential(str(held_out), str(results / "out"), save_probabilities=False)
        model = Path(trainer.output_folder_base)
        files = [str(model / name) for name in ("dataset.json", "plans.json")]
        compute_metrics_on_folder2(str(labels), str(results / "out"), *files, num_processes=1)

    with in_this_process(), mock.patch.dict(os.environ, {"nnUNet_n_proc_DA": "0", "nnUNet_compile": "f"}):
        said = call(work)
    return [] if said.code == 0 else [f"training fails: {said.trace[-1200:] or said.text[-300:]}"]


def campaign(datasets: int, seed: int = 0, train: int = 0, minutes: float = 60.0, shown: bool = True) -> list[dict]:
    """Rows of the rounds; no round begins after ``minutes``."""
    begun, rows = datetime.datetime.now(), []
    for number in range(datasets):
        if datetime.datetime.now() - begun > datetime.timedelta(minutes=minutes):
            break
        form = draw(np.random.default_rng([seed, number]))
        with nnunet_folders() as folder:
            row = round_of(form, folder, number, bool(train) and number % train == 0)
        rows.append({"number": number, **asdict(form), **row})
        if shown:
            print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    return rows


def faults(rows: Sequence[dict]) -> list[dict]:
    """The rows that went wrong."""
    return [row for row in rows if row["outcome"] == "FAULT"]


def main() -> int:
    """Entry of the command line; exit code 1 where a dataset went wrong."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--datasets", type=int, default=200, help="rounds (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of the forms (default: %(default)s)")
    p.add_argument("--train", type=int, default=0, metavar="N", help="train on every Nth dataset (default: none)")
    p.add_argument("--minutes", type=float, default=60, help="no round begins later (default: %(default)s)")
    p.add_argument("-o", type=Path, metavar="FILE.json", help="where to write the rows")
    o = p.parse_args()
    rows = campaign(o.datasets, o.seed, o.train, o.minutes)
    counts = Counter(row["outcome"] for row in rows)
    if o.o:
        about = meta(
            f"python -m tests.faults.sweep --datasets {o.datasets} --seed {o.seed} --train {o.train} "
            f"--minutes {o.minutes:g}"
        )
        write_json(o.o, {"meta": about, "counts": dict(counts), "rounds": rows})
    print(f"{len(rows)} datasets: {dict(counts)}")
    return int(bool(faults(rows)))


if __name__ == "__main__":
    sys.exit(main())
