"""How many synthetic cases a second enter a dataset, against copying their files?

Ours is difflung_augment's injection of staged cases: checks, hashes, backups, journal, manifest, split, dataset.json,
every file flushed to the disk, all cases or none. The reference copies the same files and rewrites dataset.json and the
split, as a script would, and could not be undone or interrupted. For 1, 2 and 4 times the cases.
"""

from __future__ import annotations

import shutil

from benchmarks.setting import phantom
from benchmarks.timing import parser, row, seconds, write_rows
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.dataset.raw_dataset import RawDataset, open_raw_dataset
from nnunet_difflung.dataset.staged_case import StagedCase
from nnunet_difflung.injection.inject import inject, staging_folder
from nnunet_difflung.runtime.files import read_json, write_json
from tests.support.staging import stage_cases


def plain_copy(raw: RawDataset, cases: list[StagedCase], fold: int) -> None:
    """What a script for one dataset would do."""
    for case in cases:
        for file in (*case.images, case.label):
            shutil.copyfile(file, raw.folder / file.parent.name / file.name)
    content, splits = read_json(raw.folder / "dataset.json"), read_json(raw.folder / "splits_final.json")
    splits[fold]["train"] += [case.identifier for case in cases]
    write_json(raw.folder / "dataset.json", {**content, "numTraining": content["numTraining"] + len(cases)})
    write_json(raw.folder / "splits_final.json", splits)


def restore(raw: RawDataset, kept: dict[str, bytes]) -> None:
    """Takes out what ``plain_copy`` put in."""
    for file in raw.folder.glob("*sTr/difflung_*"):
        file.unlink()
    for name, content in kept.items():
        (raw.folder / name).write_bytes(content)


def timed(raw: RawDataset, count: int, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of ours and of the reference in turns, after one of each that warms up."""
    mine, other = [], []
    kept = {name: (raw.folder / name).read_bytes() for name in ("dataset.json", "splits_final.json")}
    for _ in range(repeats + 1):
        cases, run = stage_cases(raw, count=count)
        other.append(seconds(lambda cases=cases: plain_copy(raw, cases, 0)))
        restore(raw, kept)
        mine.append(seconds(lambda cases=cases, run=run: inject(raw, cases, run)))
        remove(["-d", "800"])
        shutil.rmtree(staging_folder(raw), ignore_errors=True)
    return mine[1:], other[1:]


def main() -> None:
    """Entry of the command line."""
    p = parser(__doc__, 256)
    p.add_argument("--cases", type=int, default=25, help="at 1× (default: %(default)s)")
    o = p.parse_args()
    rows = []
    with phantom(o.size, 6, 4):
        raw = open_raw_dataset("800")
        if not (raw.folder / "splits_final.json").is_file():
            write_json(raw.folder / "splits_final.json", raw.splits)
        raw = open_raw_dataset("800")
        for factor in (1, 2, 4):
            count = factor * o.cases
            mine, other = timed(raw, count, o.repeats)
            rows.append(
                row(
                    f"injection, {count} cases of {o.size}²",
                    [count / t for t in mine],
                    [count / t for t in other],
                    "cases/s",
                    "cpu",
                    {"safe": "hashes, backups, journal, fsync and undo: ours only"},
                )
            )
    write_rows(o.output, rows)


if __name__ == "__main__":
    main()
