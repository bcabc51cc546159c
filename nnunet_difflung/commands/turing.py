"""``difflung_turing``: a blind reading, in which someone tries to tell painted from real lesions, and its score."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_difflung.commands import options as shared
from nnunet_difflung.commands.options import positive
from nnunet_difflung.dataset.raw_dataset import check_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.console import command
from nnunet_difflung.runtime.messages import report, say
from nnunet_difflung.runtime.wording import counted
from nnunet_difflung.runtime.writable import check_folders

PAGE, KEY = "reading.html", "key.json"
_DESCRIPTION = """
Writes a page on which real and painted lesions are shown in random order, and a key to it. Send the page to a reader,
who says of each picture whether it is real, and saves the answers; keep the key. With --score the command compares
answers with the key: 0.5 is guessing, so a reader near 0.5 cannot tell them apart. For each painted lesion a real one
of the same class and about the same area is shown. Needs synthetic cases in the dataset.
"""
_EXAMPLE = """
difflung_turing -d 801 -o reading
difflung_turing --score answers_a.csv answers_b.csv -o reading
"""


def parser() -> argparse.ArgumentParser:
    """The command's parser."""
    p = shared.command_parser("difflung_turing", _DESCRIPTION, _EXAMPLE)
    either = p.add_argument_group("one of").add_mutually_exclusive_group(required=True)
    shared.add_dataset(either, "make a reading from a dataset in $nnUNet_raw", required=False)
    either.add_argument(
        "--score", nargs="+", type=Path, metavar="FILE", help="score the answers of one or more readers (default: none)"
    )
    group = p.add_argument_group("run")
    group.add_argument(
        "-o",
        dest="out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help=f"folder of the reading: {PAGE} is for the reader, {KEY} is not",
    )
    shared.add_method_on_record(group, "lesions")
    group.add_argument(
        "--number",
        type=positive,
        default=24,
        metavar="N",
        help="painted lesions, and as many real ones (default: %(default)s, which takes ten minutes to read)",
    )
    shared.add_seed(group, "the choice and the order of the pictures")
    shared.add_labels_and_patients(p)
    return p


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the command line."""
    options = parser().parse_args(arguments)
    if options.score:
        _score(options)
    else:
        _make(options)
    return 0


def _make(options: argparse.Namespace) -> None:
    if (options.out / KEY).exists():
        raise BadInput(f"{options.out} already holds a reading, whose key would be lost; name another folder with -o")
    check_folders([options.out])
    check_dataset(options.dataset, options.normal_label, options.structure_label)

    from nnunet_difflung.dataset.privacy import as_private_as
    from nnunet_difflung.injection.manifest import read_manifest
    from nnunet_difflung.pages.render import write_page
    from nnunet_difflung.report.blind_reading import key_of, make_reading, new_token, page_of, painted_whole
    from nnunet_difflung.report.request import method_on_record
    from nnunet_difflung.runtime.files import write_json

    raw = shared.opened(options)
    method = method_on_record(raw.name, options.method)
    manifest = read_manifest(raw.folder) or {"cases": {}, "runs": []}
    shown = make_reading(raw, manifest, method, options.number, options.seed, progress=True)
    token = new_token()
    with as_private_as(raw.folder, raw.files()):
        options.out.mkdir(parents=True, exist_ok=True)
        page = page_of(shown, "Real or painted?", token, painted_whole(manifest, method))
        write_page(page, options.out / PAGE)
        # last: a folder with a key is refused, and a page without one can be made again
        write_json(options.out / KEY, key_of(shown, raw.name, method, options.seed, token))
    half = counted(len(shown) // 2, "painted lesion")
    say(f"{options.out / PAGE}: {half} and as many real ones, for the reader")
    report(dataset=raw.name, method=method, pictures=len(shown), html=options.out / PAGE, key=options.out / KEY)
    say(f"{options.out / KEY}: the key; keep it to yourself")
    say(f"Next: difflung_turing --score answers.csv -o {options.out}")


def _score(options: argparse.Namespace) -> None:
    from nnunet_difflung.report.blind_reading import read_answers, read_key, score
    from nnunet_difflung.runtime.files import write_json

    key = read_key(options.out / KEY)
    tables = {path.stem: score(read_answers(path, key), key) for path in options.score}
    if len(tables) < len(options.score):
        raise BadInput("--score: two files have the same name; rename one, since the names stand for the readers")
    say(f"{'reader':<20} {'class':<20} {'correct':>9} {'accuracy [95 %]':>20} {'AUC':>5} {'painted':>9} {'real':>9}")
    for reader, table in tables.items():
        for name, row in table.items():
            interval = f"{row['accuracy']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
            auc = "–" if row["auc"] is None else f"{row['auc']:.2f}"
            correct, painted, real = (
                f"{row[found]}/{row[of]}"
                for found, of in (("correct", "pictures"), ("painted_found", "painted"), ("real_found", "real"))
            )
            say(f"{reader:<20} {name:<20} {correct:>9} {interval:>20} {auc:>5} {painted:>9} {real:>9}")
    target = options.out / "score.json"
    write_json(target, {"readers": tables})
    report(readers=tables, written=[target])
    say(f"{target}: the same as JSON. 0.5 is guessing; an interval that holds 0.5 shows no difference.")


entry = command(main)

if __name__ == "__main__":
    entry()
