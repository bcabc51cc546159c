"""How many painted volumes a second are measured and written as compressed NIfTI, in threads against one by one?

Both are difflung_augment's own way (gate, memorisation, image and label through nnU-Net's reader), with
``copy_paste``, which needs no network, only the pasting of lesions, which is timed too; the reference does one case
after the other. Files are equal byte for byte, which is checked.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.timing import alternating, parser, row, seconds, write_rows
from nnunet_difflung.commands.augment import parse, settings_from
from nnunet_difflung.dataset.cache import build_cache
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.painting import synthesis as module
from nnunet_difflung.painting.cases import write_case
from nnunet_difflung.paths import NNUNET_RAW, PATH_VARIABLES, cache_folder
from nnunet_difflung.pipeline.fold import prepare_fold, synthesize_fold
from nnunet_difflung.preparing.fold import Fold, discard_work
from nnunet_difflung.runtime.files import sha256
from tests.support.tiny import make_dataset


def prepared(folder: Path, o) -> Fold:
    """A fold of a dataset of volumes with its plan."""
    for name in PATH_VARIABLES:
        (folder / name).mkdir()
        os.environ[name] = str(folder / name)
    make_dataset(folder / NNUNET_RAW, patients=o.patients, volumes=True, depth=o.depth, size=o.size)
    raw = open_raw_dataset("801")
    cache = build_cache(raw, cache_folder(raw.name), o.np, progress=False)
    settings = settings_from(
        parse(
            [
                "-d",
                "801",
                "--method",
                "copy_paste",
                "--gate",
                "report",
                "-device",
                "cpu",
                "--target-share",
                "emphysema=0.3",
                "ILD=0.3",
                "--max-synthetic",
                str(o.patients * o.depth),
            ]
        )
    )
    return prepare_fold(raw, 0, settings, cache)


def main() -> None:
    """Entry of the command line."""
    p = parser(__doc__, 256)
    p.add_argument("--patients", type=int, default=8, help="a volume each (default: %(default)s)")
    p.add_argument("--depth", type=int, default=16, help="slices of a volume (default: %(default)s)")
    p.add_argument("-np", type=int, default=2, help="threads (default: %(default)s)")
    o = p.parse_args()
    with TemporaryDirectory() as folder:
        fold = prepared(Path(folder), o)
        hashes: list[dict[str, str]] = []
        synthesis, _ = synthesize_fold(fold, "cpu", progress=False)

        spent = []

        def timed(*arguments) -> None:
            spent.append(seconds(lambda: write_case(*arguments)))

        def written(threads: int) -> None:
            spent.clear()
            discard_work(fold.work)
            result = module.synthesize(synthesis, progress=False, threads=threads)
            files = [file for case in result.staged for file in (*case.images, case.label)]
            hashes.append({file.name: sha256(file) for file in files})

        module.write_case = timed
        mine, other = alternating(lambda: written(o.np), lambda: written(1), o.repeats)
    assert all(found == hashes[0] for found in hashes)
    cases = len(hashes[0]) // 2
    write_rows(
        o.output,
        [
            row(
                f"measuring and writing, {cases} volumes of {o.depth} × {o.size}², {o.np} threads",
                [cases / t for t in mine],
                [cases / t for t in other],
                "cases/s",
                "cpu",
                {"files": "equal byte for byte"},
                share_of_writing=sum(spent) / other[-1],
            )
        ],
    )


if __name__ == "__main__":
    main()
