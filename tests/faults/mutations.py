"""Converts archives in which one file was damaged or changed at random.

    python -m tests.faults.mutations --mutations 300 --seed 0 -o docs/results/mutations.json

Each round takes a good archive of three patients (DICOM with RTSTRUCT or DICOM-SEG, volumes in NIfTI, NRRD or MHA, PNG
slices), changes one file (bytes flipped, zeroed, cut off or added; header entries dropped or edited; files swapped,
copied, renamed or deleted), and runs ``difflung_convert``. It must end with exit code 0 or with 2 and one line; after
0, no label and no intensity may differ from those of the good archive unless the terminal says that something was
dropped, merged, moved, guessed or reinterpreted. Where the change is one of the pixels themselves, or a whole file in
the place of another of its kind, no program can know: these rounds only show that nothing breaks. After a refusal,
``--skip-faulty`` must convert the other patients as from the good archive, or refuse in one line too.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import SimpleITK as sitk

from nnunet_difflung.runtime.files import read_json, write_json
from tests.faults.records import meta, nnunet_folders
from tests.faults.sweep import Said, call
from tests.support.archives import write_dicom, write_slices, write_volumes

NAME = "Dataset810_Mutated"
KINDS = ("rtstruct", "seg", "nifti", "nrrd", "mha", "png")
CHECKED = ("nifti", "nrrd", "mha", "png")  # compressed files, which hold a checksum of their voxels
SAID = ("dropped", "merged", "moved", "guessed", "reinterpreted", "left out", "skipped", "Warning")


@dataclass(frozen=True)
class Mutation:
    """A change of an archive.

    Attributes:
        what: one line that says what was changed.
        knowable: whether the changed file, or its place among the others, shows that something is wrong or is another.
    """

    what: str
    knowable: bool


def make_archive(kind: str, folder: Path) -> None:
    """A good archive of three patients."""
    if kind in ("rtstruct", "seg"):
        write_dicom(folder, 3, "RTSTRUCT" if kind == "rtstruct" else "SEG")
    elif kind == "png":
        write_slices(folder, 3, 3)
    else:
        write_volumes(folder, 3, ending={"nifti": ".nii.gz", "nrrd": ".nrrd", "mha": ".mha"}[kind])


def mapping_of(kind: str) -> str:
    """The mapping of the structures to labels."""
    if kind in ("rtstruct", "seg"):
        return "labels:\n  normal_lung: [Lungs]\n  emphysema: [Emphysema]\n  ILD: [ILD]\n"
    return "labels:\n  normal_lung: [label 1]\n  emphysema: [label 2]\n  ILD: [label 3]\n"


def convert(arguments: Sequence[str], kind: str) -> Said:
    """``difflung_convert`` in this process, without nnU-Net's slow check."""
    from nnunet_difflung.dataset_conversion.convert import entry

    check = "nnunetv2.experiment_planning.verify_dataset_integrity.verify_dataset_integrity"
    more = ["--pixel-spacing", "1.4"] if kind == "png" else []
    with mock.patch(check, return_value=None):
        return call(lambda: entry([*arguments, *more, "-np", "1"]))


# --- mutations of bytes and files, which fit all kinds


def flip_bytes(rng: np.random.Generator, archive: Path, kind: str) -> Mutation:
    """Changes 1 to 20 bytes anywhere in a file."""
    path = _any(rng, archive)
    data = bytearray(path.read_bytes())
    number = int(rng.integers(1, 21))
    for place in rng.integers(0, len(data), number):
        data[place] ^= int(rng.integers(1, 256))
    path.write_bytes(bytes(data))
    return Mutation(f"{number} bytes of {path.relative_to(archive)} flipped", kind in CHECKED)


def flip_header_bytes(rng: np.random.Generator, archive: Path, kind: str) -> Mutation:
    """Changes 1 to 5 of the first 600 bytes of a file."""
    path = _any(rng, archive)
    data = bytearray(path.read_bytes())
    number = int(rng.integers(1, 6))
    for place in rng.integers(0, min(600, len(data)), number):
        data[place] ^= int(rng.integers(1, 256))
    path.write_bytes(bytes(data))
    return Mutation(f"{number} of the first bytes of {path.relative_to(archive)} flipped", kind in CHECKED)


def truncate(rng: np.random.Generator, archive: Path, kind: str) -> Mutation:
    """Cuts a file off, down to nothing."""
    path = _any(rng, archive)
    data = path.read_bytes()
    keep = 0 if rng.random() < 0.2 else int(rng.integers(1, len(data)))
    path.write_bytes(data[:keep])
    return Mutation(f"{path.relative_to(archive)} cut off after {keep} of {len(data)} bytes", True)


def zero_block(rng: np.random.Generator, archive: Path, kind: str) -> Mutation:
    """Sets a block of a file to 0, as a broken disk does."""
    path = _any(rng, archive)
    data = bytearray(path.read_bytes())
    start = int(rng.integers(0, len(data)))
    length = min(int(rng.integers(1, 4096)), len(data) - start)
    data[start : start + length] = bytes(length)
    path.write_bytes(bytes(data))
    return Mutation(f"{length} bytes of {path.relative_to(archive)} set to 0", kind in CHECKED)


def append(rng: np.random.Generator, archive: Path, kind: str) -> Mutation:
    """Adds bytes to a file."""
    path = _any(rng, archive)
    path.write_bytes(path.read_bytes() + rng.bytes(int(rng.integers(1, 3000))))
    return Mutation(f"bytes added to {path.relative_to(archive)}", True)


def delete(rng: np.random.Generator, archive: Path, kind: str) -> Mutation:
    """Deletes a file."""
    path = _any(rng, archive)
    path.unlink()
    return Mutation(f"{path.relative_to(archive)} deleted", True)


def duplicate(rng: np.random.Generator, archive: Path, kind: str) -> Mutation:
    """Copies a file to another name beside it."""
    path = _any(rng, archive)
    copy = path.with_name(f"copy_of_{path.name}")
    shutil.copy(path, copy)
    return Mutation(f"{path.relative_to(archive)} copied to {copy.name}", True)


def swap(rng: np.random.Generator, archive: Path, kind: str) -> Mutation:
    """Swaps the contents of two files."""
    files = _files(archive)
    first, second = (files[i] for i in rng.choice(len(files), 2, replace=False))
    a, b = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    names = [str(path.relative_to(archive)) for path in (first, second)]
    return Mutation(f"{names[0]} and {names[1]} swapped", False)


def replace_by_text(rng: np.random.Generator, archive: Path, kind: str) -> Mutation:
    """Puts something else under the name of a file: a page of an error message, or a pointer of Git LFS."""
    path = _any(rng, archive)
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
    path.write_bytes(pointer if rng.random() < 0.5 else b"<html><body>404 Not Found</body></html>\n")
    return Mutation(f"{path.relative_to(archive)} replaced by text", True)


# --- mutations of headers


def dicom_tag(rng: np.random.Generator, archive: Path, kind: str) -> Mutation:
    """Drops, empties or changes a tag of a DICOM file."""
    import pydicom

    path = _any(rng, archive)
    data = pydicom.dcmread(path)
    tags = [element for element in data if element.keyword not in ("PixelData", "")]
    element = tags[int(rng.integers(len(tags)))]
    how = str(rng.choice(["dropped", "emptied", "changed"]))
    if how == "dropped":
        del data[element.tag]
    elif how == "emptied":
        element.value = [] if element.VR == "SQ" else None
    else:
        element.value = _other_value(rng, element)
    data.save_as(path, enforce_file_format=False)
    # what a tag says of the whole patient or of one structure has no second witness
    return Mutation(f"{element.keyword} of {path.relative_to(archive)} {how}", False)


def _other_value(rng: np.random.Generator, element):
    if element.VR in ("DS", "IS", "US", "SS", "UL", "SL", "FD", "FL"):
        values = np.atleast_1d(np.array(element.value, float)) * float(rng.choice([-1, 0.5, 2, 10]))
        whole = element.VR in ("IS", "US", "SS", "UL", "SL")
        values = [int(abs(v)) % 60000 if whole else round(float(v), 3) for v in values]
        return values if len(values) > 1 else values[0]
    if element.VR == "SQ":
        return list(element.value)[:-1]
    if element.VR == "UI":
        return "1.2.3.4.5"
    return "OTHER"


def nifti_field(rng: np.random.Generator, archive: Path, kind: str) -> Mutation:
    """Changes a field of a NIfTI header."""
    import gzip

    import nibabel

    path = _any(rng, archive)
    data = bytearray(gzip.decompress(path.read_bytes()))
    header = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    names = [n for n in header if n not in ("magic", "data_type", "db_name", "descrip", "aux_file")]
    name = names[int(rng.integers(len(names)))]
    field = header.structarr[name]
    values = np.atleast_1d(np.array(field, copy=True))
    if values.dtype.kind in "SU":
        return nifti_field(rng, archive, kind)
    place = int(rng.integers(values.size))
    values.ravel()[place] = rng.choice([0, 1, 2, -1, 7, np.nan if values.dtype.kind == "f" else 3])
    header.structarr[name] = values.reshape(np.shape(field))
    data[:348] = header.structarr.tobytes()
    path.write_bytes(gzip.compress(bytes(data)))
    return Mutation(f"{name}[{place}] of {path.relative_to(archive)} = {values.ravel()[place]}", False)


def text_header(rng: np.random.Generator, archive: Path, kind: str) -> Mutation:
    """Drops or changes a line of the text header of an NRRD or MHA file."""
    path = _any(rng, archive)
    data = path.read_bytes()
    end = data.index(b"\n\n") + 1 if kind == "nrrd" else data.index(b"ElementDataFile = LOCAL\n") + 24
    lines = data[:end].split(b"\n")
    place = int(rng.integers(1, len(lines) - 1))
    line = lines[place]
    if rng.random() < 0.5:
        del lines[place]
        what = "dropped"
    else:
        digits = [i for i, c in enumerate(line) if chr(c).isdigit()]
        if not digits:
            del lines[place]
            what = "dropped"
        else:
            i = digits[int(rng.integers(len(digits)))]
            lines[place] = line[:i] + str(int(rng.integers(10))).encode() + line[i + 1 :]
            what = f"→ {lines[place].decode(errors='replace')}"
    path.write_bytes(b"\n".join(lines) + data[end:])
    return Mutation(f"{path.relative_to(archive)}: {line.decode(errors='replace')} {what}", False)


def picture_mode(rng: np.random.Generator, archive: Path, kind: str) -> Mutation:
    """Stores a picture in another mode."""
    from PIL import Image

    path = _any(rng, archive)
    mode = str(rng.choice(["RGB", "RGBA", "LA", "P", "1", "I;16"]))
    image = Image.open(path)
    image.load()
    (image.convert("I").convert("I;16") if mode == "I;16" else image.convert(mode)).save(path)
    known = path.parent.name == "images" or mode not in ("1", "P")  # a mask of one value may be meant
    return Mutation(f"{path.relative_to(archive)} stored as {mode}", known)


ALL: tuple[Callable, ...] = (
    flip_bytes,
    flip_header_bytes,
    truncate,
    zero_block,
    append,
    delete,
    duplicate,
    swap,
    replace_by_text,
)
OF_KIND: dict[str, tuple[Callable, ...]] = {
    "rtstruct": (dicom_tag,) * 6,
    "seg": (dicom_tag,) * 6,
    "nifti": (nifti_field,) * 6,
    "nrrd": (text_header,) * 4,
    "mha": (text_header,) * 4,
    "png": (picture_mode,) * 3,
}


def _files(archive: Path) -> list[Path]:
    return sorted(path for path in archive.rglob("*") if path.is_file())


def _any(rng: np.random.Generator, archive: Path) -> Path:
    files = _files(archive)
    return files[int(rng.integers(len(files)))]


# --- rounds


def outputs(raw: Path) -> dict[str, tuple]:
    """Case → intensities, labels, and place of the voxels."""
    made = {}
    for path in sorted((raw / NAME / "imagesTr").glob("*.nii.gz")):
        image = sitk.ReadImage(str(path))
        label = sitk.ReadImage(str(raw / NAME / "labelsTr" / path.name.replace("_0000.nii.gz", ".nii.gz")))
        place = np.round([*image.GetSpacing(), *image.GetOrigin(), *image.GetDirection()], 3).tolist()
        made[path.name.removesuffix("_0000.nii.gz")] = (
            sitk.GetArrayFromImage(image),
            sitk.GetArrayFromImage(label),
            place,
        )
    return made


def differences(expected: dict, made: dict) -> list[str]:
    """Cases that are missing or unlike those of the good archive."""
    rows = [f"{name} is missing" for name in expected if name not in made]
    for name, (image, label, place) in made.items():
        if name not in expected:
            rows.append(f"{name} is new")
            continue
        good = expected[name]
        if image.shape != good[0].shape or place != good[2]:
            rows.append(f"{name}: size or place")
        else:
            for what, a, b in (("intensities", image, good[0]), ("labels", label, good[1])):
                if (number := int((a != b).sum())) > 0:
                    rows.append(f"{name}: {number} voxels' {what}")
    return rows


def _without_numbers(line: str) -> str:
    """A line without its numbers: another number of overlapping voxels says nothing about a change."""
    return re.sub(r"\s*\d+(\.\d+)?", " #", line)


class Ground:
    """The good archives, and what they are converted to."""

    def __init__(self, folder: Path) -> None:
        """Makes and converts them in ``folder``."""
        self.folder, self.expected, self.usual = folder, {}, {}
        for kind in KINDS:
            make_archive(kind, folder / kind / "archive")
            (folder / f"{kind}.yaml").write_text(mapping_of(kind), encoding="utf-8")
            said, self.expected[kind] = self.converted(kind, folder / kind / "archive")
            if said.code != 0:
                raise RuntimeError(f"{kind}: {said.text}{said.trace}")
            self.usual[kind] = {_without_numbers(line) for line in said.text.splitlines()}

    def converted(self, kind: str, archive: Path, *more: str) -> tuple[Said, dict]:
        """What the command says, and what it makes."""
        raw = Path(os.environ["nnUNet_raw"])
        for old in raw.iterdir():
            shutil.rmtree(old)
        form = "slices" if kind == "png" else "volumes"
        mapping = str(self.folder / f"{kind}.yaml")
        words = ["-i", str(archive), "--mapping", mapping, "-d", "810", "--name", "Mutated", "--as", form]
        said = convert([*words, *more], kind)
        return said, outputs(raw) if said.code == 0 else {}


def round_of(ground: Ground, kind: str, rng: np.random.Generator) -> dict:
    """One mutation; ``outcome`` is ``refused``, ``as before``, ``said``, ``unknowable`` or ``FAULT``."""
    archive = ground.folder / "mutated" / "archive"
    shutil.rmtree(archive.parent, ignore_errors=True)
    shutil.copytree(ground.folder / kind / "archive", archive)
    choices = (*ALL, *OF_KIND[kind])
    mutation = choices[int(rng.integers(len(choices)))](rng, archive, kind)
    row = {"kind": kind, "what": mutation.what}
    said, made = ground.converted(kind, archive)
    errors = [line for line in said.text.splitlines() if line.startswith(("Error:", "Failed:"))]
    if said.code is None or said.code not in (0, 2) or (said.code == 2 and len(errors) != 1):
        return row | {"outcome": "FAULT", "said": f"exit code {said.code}: {said.trace[-1500:] or said.text[-800:]}"}
    if said.code == 2:
        problem = _skipping(ground, kind, archive)
        return row | ({"outcome": "FAULT", "said": problem} if problem else {"outcome": "refused", "said": errors[0]})
    unlike = differences(ground.expected[kind], made)
    if not unlike:
        return row | {"outcome": "as before", "said": ""}
    lines = [line for line in said.text.splitlines() if _without_numbers(line) not in ground.usual[kind]]
    told = [line for line in lines if any(word in line for word in SAID)]
    if told:
        return row | {"outcome": "said", "said": f"{'; '.join(unlike[:4])} | {' / '.join(told[:4])}"}
    outcome = "FAULT" if mutation.knowable else "unknowable"
    return row | {"outcome": outcome, "said": f"silently: {'; '.join(unlike[:4])}"}


def _skipping(ground: Ground, kind: str, archive: Path) -> str:
    """What is wrong when the patients that can be converted are; "" if nothing is."""
    said, made = ground.converted(kind, archive, "--skip-faulty")
    if said.code is None or said.code not in (0, 2):
        return f"--skip-faulty ends with {said.code}: {said.trace[-1500:] or said.text[-500:]}"
    unlike = [row for row in differences(ground.expected[kind], made) if "missing" not in row]
    # with one patient less, a patient's cases are the same or, if the mutated patient was kept, other ones
    patients = {row.split(":")[0].split("_s")[0] for row in unlike}
    return f"--skip-faulty changes {unlike[:4]}" if said.code == 0 and len(patients) > 1 else ""


def campaign(mutations: int, seed: int = 0, minutes: float = 60, shown: bool = True) -> list[dict]:
    """Rows of the rounds, with the kinds of archives in turn; no round begins after ``minutes``."""
    begun, rows = datetime.datetime.now(), []
    with nnunet_folders() as folder:
        ground = Ground(folder)
        for number in range(mutations):
            if datetime.datetime.now() - begun > datetime.timedelta(minutes=minutes):
                break
            rng = np.random.default_rng([seed, number])
            rows.append({"number": number, **round_of(ground, KINDS[number % len(KINDS)], rng)})
            if shown:
                print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    return rows


def faults(rows: Sequence[dict]) -> list[dict]:
    """The rounds that went wrong."""
    return [row for row in rows if row["outcome"] == "FAULT"]


def main() -> int:
    """Entry of the command line; exit code 1 where something went wrong."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--mutations", type=int, default=300, help="rounds (default: %(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of the mutations (default: %(default)s)")
    p.add_argument("--minutes", type=float, default=60, help="no round begins later (default: %(default)s)")
    p.add_argument("-o", type=Path, metavar="FILE.json", help="rows, added to those of other seeds")
    o = p.parse_args()
    rows = campaign(o.mutations, o.seed, o.minutes)
    counts = Counter(row["outcome"] for row in rows)
    if o.o:
        earlier = read_json(o.o)["rounds"] if o.o.is_file() else {}
        about = meta(f"python -m tests.faults.mutations --mutations {o.mutations} --seed {o.seed}")
        write_json(o.o, {"meta": about, "rounds": {**earlier, f"seed {o.seed}": rows}})
    print(f"{len(rows)} mutations: {dict(counts)}")
    return int(bool(faults(rows)))


if __name__ == "__main__":
    sys.exit(main())
