"""Measures what synthetic cases are worth on real CT, by number of source patients with the rare class.

    python -m experiments.bench run   --set lidc -o WORK --dry-run
    python -m experiments.bench run   --set lidc -o WORK
    python -m experiments.bench curve --set lidc -o WORK --arms reference difflung -n 16
    python -m experiments.bench table --set lidc -o WORK

``run`` makes the rows arms × source patients × seeds × folds, each a real nnU-Net training; the same command continues
after an interruption. ``curve`` trains for several lengths on the tuning fold, and writes bench_SET_curve.json and .md;
without --arms and -n that takes days. ``table`` writes docs/results/bench_SET.json, .md and .png from the rows that are
there. Fold 4 and the seeds 91 to 99 are for choosing settings (--tuning), folds 0 to 3 and seeds 1 to 3 are reported;
rows of the two kinds never mix.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.bench.arms import ARMS, SETS, missing
from experiments.bench.base import prepare
from experiments.bench.rows import (
    NUMBERS,
    REPORTED_FOLDS,
    REPORTED_SEEDS,
    TUNING_FOLD,
    TUNING_SEEDS,
    Row,
    Store,
    check_purpose,
    different_code,
    in_order,
)
from experiments.bench.run import clock, expected, work_through
from experiments.bench.table import check_alike, kept_rows
from experiments.bench.train import EPOCH
from experiments.bench.work import Bench, make_row, tidy
from experiments.further import of_augment, of_converter
from nnunet_difflung.errors import BadInput

ITERATIONS = 16000
LENGTHS = (1000, 4000, 8000, 16000)


def parser() -> argparse.ArgumentParser:
    """The command's parser."""
    p = argparse.ArgumentParser(
        prog="python -m experiments.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = p.add_subparsers(dest="what", required=True)
    for what, about in (
        ("run", "make the rows"),
        ("curve", "Dice against the number of iterations, on the tuning fold"),
        ("table", "table and picture from the finished rows"),
    ):
        _add_options(kinds.add_parser(what, help=about), what)
    return p


def _add_options(p: argparse.ArgumentParser, what: str) -> None:
    p.add_argument("--set", required=True, choices=SETS, help="dataset")
    p.add_argument("-o", required=True, metavar="WORK", type=Path, help="folder for datasets, logs and rows")
    p.add_argument(
        "--rows",
        type=Path,
        metavar="FOLDER",
        help="finished rows that are kept with the results, and count like those in WORK; table adds to them (default: "
        "docs/results/bench_SET_rows; none with --tuning)",
    )
    p.add_argument("--tuning", action="store_true", help="rows to choose settings with; they are never reported")
    if what != "run":
        name = "bench_SET" if what == "table" else "bench_SET_curve"
        p.add_argument("--out", type=Path, help=f"JSON file to write (default: docs/results/{name}.json)")
    if what == "table":
        p.add_argument("--iterations", type=int, default=ITERATIONS, help="length of the rows (default: %(default)s)")
        p.add_argument("--arms", nargs="+", choices=ARMS, help="whose rows count (default: all that there are)")
        p.add_argument("--seeds", nargs="+", type=int, help="whose rows count (default: all that there are)")
        p.add_argument(
            "--replace",
            action="store_true",
            help="replace kept rows by other ones of the same name in WORK (default: refuse)",
        )
        return
    p.add_argument("--arms", nargs="+", choices=ARMS, help="default: all arms that this version has")
    p.add_argument(
        "-n",
        nargs="+",
        default=NUMBERS,
        choices=NUMBERS,
        help="source patients with the rare class (default: 4, 8, 16 and all)",
    )
    seeds, folds = (", ".join(map(str, numbers)) for numbers in (REPORTED_SEEDS, REPORTED_FOLDS))
    p.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        help=f"of source patients, masks, painting and training (default: {seeds}; tuning: {TUNING_SEEDS[-1]})",
    )
    p.add_argument("-f", nargs="+", type=int, help=f"folds (default: {folds}; tuning: {TUNING_FOLD})")
    p.add_argument("--jobs", type=int, default=2, help="rows at a time, each on one core (default: %(default)s)")
    p.add_argument("--batch", type=int, help="patches in a step of nnU-Net (default: 12, of volumes 2)")
    p.add_argument("--convert", default="", help="further options of the converter, in one string")
    p.add_argument(
        "--augment",
        help="options of difflung_augment for all arms, in one string (default: "
        + "; ".join(f"{name}: {kind.augment}" for name, kind in SETS.items())
        + ")",
    )
    p.add_argument("--dry-run", action="store_true", help="list the rows that are left, with their expected cost")
    p.add_argument(
        "--iterations",
        nargs="+" if what == "curve" else None,
        type=int,
        default=list(LENGTHS) if what == "curve" else ITERATIONS,
        help=f"of nnU-Net, below {EPOCH} or multiples of it (default: %(default)s)",
    )


def wanted(o: argparse.Namespace) -> list[Row]:
    """The rows that the options ask for.

    Raises:
        BadInput: they mix tuning with reporting, or name an arm that this version does not have.
    """
    tuning = o.tuning or o.what == "curve"
    folds = o.f or ((TUNING_FOLD,) if tuning else REPORTED_FOLDS)
    seeds = o.seeds or (TUNING_SEEDS[-1:] if tuning else REPORTED_SEEDS)
    check_purpose(folds, seeds, tuning)
    known = SETS[o.set].arms
    if unlike := [arm for arm in o.arms or () if arm not in known]:
        raise BadInput(f"--arms {unlike[0]} is an arm for volumes, and --set {o.set} has slices; leave the arm out")
    lacking = {arm: missing(arm) for arm in o.arms or known}
    if o.arms and any(lacking.values()):
        arm = next(arm for arm in o.arms if lacking[arm])
        raise BadInput(f"--arms {arm} needs {lacking[arm]}, which this version does not have; leave the arm out")
    arms = [arm for arm in lacking if not lacking[arm]]
    left_out = [f"{arm} ({lack})" for arm, lack in lacking.items() if lack]
    if left_out:
        print(f"Left out, since this version lacks what they need: {', '.join(left_out)}.")
    lengths = o.iterations if isinstance(o.iterations, list) else [o.iterations]
    for length in lengths:
        if length > EPOCH and length % EPOCH:
            raise BadInput(f"--iterations {length}: expected a number below {EPOCH}, or a multiple of it")
    return [row for length in lengths for row in in_order(arms, o.n, seeds, folds, length)]


def further(o: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The options of the converter and of ``difflung_augment`` that the command line names.

    Raises:
        BadInput: the bench gives one of them itself, or a command does not have it.
    """
    kind = SETS[o.set]
    form = ("--as", "--volumes", *(word for word in kind.convert if word.startswith("--")))
    convert = of_converter("--convert", o.convert, kind.dataset, *form)
    augment = kind.augment if o.augment is None else o.augment
    return convert, of_augment("--augment", augment, "-d", "-f", "--method", "--seed", "-device", "-np")


def run(o: argparse.Namespace) -> int:
    """Makes the rows that are left; returns the exit code."""
    tuning = o.tuning or o.what == "curve"
    rows, store = wanted(o), Store(o.o, tuning, None if tuning else o.rows or kept_rows(o.set))
    convert, options = further(o)
    if o.dry_run and not (o.o / "base.json").is_file():
        _list(rows, [])
        return 0
    base = prepare(o.o, o.set, convert, o.batch or SETS[o.set].batch)
    bench = Bench(o.o, o.set, base, tuple(options))
    impossible = [row for row in rows if not bench.is_possible(row)]
    for number, fold in dict.fromkeys((row.number, row.fold) for row in impossible):
        print(f"Fold {fold} has {bench.base.sources(fold)} source patients: no rows with {number}.")
    left = [row for row in rows if row not in impossible and not store.holds(row, bench.settings(row))]
    if o.dry_run:
        _list(left, store.read())
        return 0
    print(
        f"{len(left)} of {len(rows)} rows are left, about "
        f"{clock(sum(expected(row, store.read()) for row in left) / o.jobs)}.",
        flush=True,
    )

    def say(line: str) -> None:
        print(line, flush=True)

    def make(row: Row) -> dict | None:
        return None if store.holds(row, bench.settings(row)) else make_row(bench, row)

    return min(1, work_through(left, store, make, o.jobs, say, lambda row: tidy(bench, row)))


def check_code(o: argparse.Namespace) -> None:
    """Says which arms of a table were made by different code, and replaces kept rows if the options say so."""
    usual = o.out.with_name(f"{o.out.stem}_rows") if o.out else kept_rows(o.set)
    store = Store(o.o, o.tuning, None if o.tuning else o.rows or usual)
    rows = [row for row in store.read() if row["row"]["iterations"] == o.iterations]
    if line := different_code(rows):
        print(line)
    if o.replace:
        check_alike(rows)
        store.keep(rows, replace=True)


def _list(rows: list[Row], finished: list[dict]) -> None:
    for row in rows:
        print(f"{row.name}  about {expected(row, finished) / 60:.0f} min")
    print(f"{len(rows)} rows, about {clock(sum(expected(row, finished) for row in rows))} of one core")


def main(arguments: list[str] | None = None) -> int:
    """Entry of the command line."""
    o = parser().parse_args(arguments)
    o.o = o.o.resolve()
    try:
        if o.what == "table":
            from experiments.bench.table import write

            check_code(o)
            for path in write(o):
                print(path)
            return 0
        code = run(o)
        if o.what == "curve" and not o.dry_run:
            from experiments.bench.curve import write as write_curve

            for path in write_curve(o):
                print(path)
        return code
    except BadInput as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
