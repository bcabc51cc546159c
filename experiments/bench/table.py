"""The bench's results: JSON, a Markdown table, and the learning curve."""

from __future__ import annotations

import argparse
from collections import defaultdict
from datetime import datetime, timezone
from pathlib import Path

from experiments.bench.arms import ARMS, SETS, Set
from experiments.bench.compared import (
    FIGURES,
    PRECISION,
    Rows,
    alike,
    compared,
    grid,
    precision_compared,
    summary,
)
from experiments.bench.plot import learning_curve
from experiments.bench.rows import NUMBERS, Store, as_named_now, first_difference
from nnunet_difflung.comparison.compare import without_nan
from nnunet_difflung.comparison.table2 import shown
from nnunet_difflung.errors import BadInput
from nnunet_difflung.pages.markdown import table_lines
from nnunet_difflung.runtime.files import read_json, write_bytes, write_json

_OF_NUMBER = ("seeds", "folds", "rows", "core_hours", "first_row", "last_row", "machines", "versions")
_ORDER = ("4", "8", "16", "all")
RESULTS = Path(__file__).resolve().parent.parent.parent / "docs" / "results"
OPPONENTS = ("reference", "oversampling", "copy_paste", "difflung_slices")


def write(o: argparse.Namespace) -> list[Path]:
    """Writes the results of the rows that are complete; returns the files.

    Raises:
        BadInput: no row of this length is complete, or those of an arm were made with different settings.
    """
    default = o.o / f"bench_{o.set}_tuning.json" if o.tuning else RESULTS / f"bench_{o.set}.json"
    target, kind = o.out or default, SETS[o.set]
    store = Store(o.o, o.tuning, None if o.tuning else o.rows or target.with_name(f"{target.stem}_rows"))
    rows = [row for row in store.read() if row["row"]["iterations"] == o.iterations]
    if not rows:
        raise BadInput(
            f"{store.folder} holds no row of {o.iterations} iterations; run the bench first, or give another"
        )
    rows = [row for row in rows if _is_wanted(row["row"], o)]
    if not rows:
        raise BadInput("no row of --arms and --seeds is complete; run the bench with them first, or leave them out")
    check_alike(rows)
    earlier = read_json(target) if target.is_file() and not o.tuning else {}
    content = without_nan(with_earlier(tabulated(rows, kind) | {"meta": _meta(rows, o, kind)}, earlier))
    text = markdown(content)
    store.keep(rows)
    write_json(target, content)
    write_bytes(target.with_suffix(".md"), text.encode())
    learning_curve(target.with_suffix(".png"), content)
    return [target, target.with_suffix(".md"), target.with_suffix(".png")]


def _is_wanted(row: dict, o: argparse.Namespace) -> bool:
    return all(wanted is None or row[key] in wanted for key, wanted in (("arm", o.arms), ("seed", o.seeds)))


def kept_rows(kind: str) -> Path:
    """Folder of the rows of a set that are kept with the results."""
    return RESULTS / f"bench_{kind}_rows"


def with_earlier(content: dict, earlier: dict) -> dict:
    """A table with those numbers of source patients of an earlier one of which more rows were there.

    ``made`` says of each number how its rows were made. The rows of the first tables were not kept.

    Args:
        content: of the rows that are there.
        earlier: what the file holds; empty if there is none.

    Raises:
        BadInput: a number has rows of an arm that the earlier table, of more rows, does not have.
    """
    meta, before = content["meta"], earlier.get("meta", {})
    made = dict(content["made"])
    same = all(before.get(key) == meta[key] for key in ("dataset", "rare", "tuning", "iterations", "network"))
    for number, arms in earlier.get("numbers", {}).items() if same else ():
        if number not in made or _trainings(arms) > _trainings(content["numbers"][number]):
            if new := sorted(set(content["numbers"].get(number, {})) - set(arms)):
                raise BadInput(
                    f"rows of {new[0]} with {number} source patients cannot be compared with the earlier ones, whose "
                    f"means alone are on record; make the rows of all arms, or give another --out"
                )
            print(f"{number} source patients: {_trainings(arms)} earlier trainings stay in the table.")
            content["numbers"][number] = arms
            meta = {**meta, "augment": before["augment"] | meta["augment"]}
            whole = {key: before[key] for key in _OF_NUMBER if key not in ("rows", "core_hours")}  # of all numbers
            made[number] = earlier.get("made", {}).get(number, whole | {"rows": _trainings(arms)})
            made[number] |= {"rows_kept": False}
    numbers = {number: content["numbers"][number] for number in _ORDER if number in content["numbers"]}
    made = {number: made[number] for number in numbers}
    together = {"rows": sum(of["rows"] for of in made.values())}
    for key in ("seeds", "folds"):
        together[key] = sorted({value for of in made.values() for value in of[key]})
    return content | {"numbers": numbers, "made": made, "meta": meta | together}


def _trainings(arms: dict) -> int:
    return sum(next(iter(of_arm["figures"].values()))["dice"]["trainings"] for of_arm in arms.values())


def check_alike(rows: list[dict]) -> None:
    """Refuses an arm whose rows differ in their settings.

    Raises:
        BadInput: names the arm and the setting.
    """
    first: dict[str, dict] = {}
    for row in rows:
        arm, settings = row["row"]["arm"], as_named_now(row["settings"])
        before = first.setdefault(arm, settings)
        if key := first_difference(before, settings):
            raise BadInput(
                f"rows of {arm} were made with {key} {before.get(key)!r} and {settings.get(key)!r}, expected the same "
                f"in all of them; move away those of one kind"
            )


def tabulated(rows: list[dict], kind: Set) -> dict:
    """number → arm → ``figures`` of each class and ``differences`` to each opponent, in the order of the tables.

    Figures are means over the trainings that all arms of a number have, so that they can be compared with each other;
    differences use all trainings that both arms have.
    """
    groups: dict[str, dict[str, dict]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        key = row["row"]
        groups[key["number"]][key["arm"]][key["seed"], key["fold"]] = row
    classes = list(next(iter(rows))["figures"])
    classes = [kind.rare, *(name for name in classes if name != kind.rare)]
    numbers = {}
    for number in [n for n in reversed(NUMBERS) if n in groups]:
        arms = {arm: groups[number][arm] for arm in ARMS if arm in groups[number]}
        shared = _shared(arms)
        numbers[number] = {
            arm: {
                "sources": sum(len(row["sources"]) for row in of_arm.values()) / len(of_arm),
                "figures": {name: summary(shared[arm], name) for name in classes},
                "differences": _differences(arm, arms, classes),
                "at_equal_harm": _at_equal_harm(arm, arms, kind.rare),
            }
            for arm, of_arm in arms.items()
        }
    made = {n: _made([row for row in rows if row["row"]["number"] == n]) for n in numbers}
    return {"numbers": {n: numbers[n] for n in _ORDER if n in numbers}, "made": made}


def _shared(arms: dict[str, Rows]) -> dict[str, Rows]:
    """The rows of the largest design that all arms have; all rows where they have none in common."""
    seeds, folds = grid(*arms.values())
    if not seeds:
        return dict(arms)
    return {arm: {(seed, fold): rows[seed, fold] for seed in seeds for fold in folds} for arm, rows in arms.items()}


def _differences(arm: str, arms: dict[str, Rows], classes: list[str]) -> dict:
    return {
        opponent: {
            name: {figure: compared(arms[arm], arms[opponent], name, figure) for figure in FIGURES}
            | {PRECISION: precision_compared(arms[arm], arms[opponent], name)}
            for name in classes
        }
        for opponent in OPPONENTS
        if opponent in arms and opponent != arm
    }


def _at_equal_harm(arm: str, arms: dict[str, Rows], rare: str) -> dict | None:
    return alike(arms[arm], arms["reference"], rare) if "reference" in arms and arm != "reference" else None


def _meta(rows: list[dict], o: argparse.Namespace, kind: Set) -> dict:
    return {
        "command": f"python -m experiments.bench table --set {o.set} -o WORK --iterations {o.iterations}"
        + (" --tuning" if o.tuning else "")
        + "".join(f" --{key} {' '.join(map(str, vars(o)[key]))}" for key in ("arms", "seeds") if vars(o)[key]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "dataset": kind.dataset,
        "title": kind.title,
        "rare": kind.rare,
        "tuning": o.tuning,
        "iterations": o.iterations,
        "network": rows[0]["settings"]["network"],
        "augment": {row["row"]["arm"]: row["settings"]["augment"] for row in rows},
        **_made(rows),
    }


def _made(rows: list[dict]) -> dict:
    """How some rows were made."""
    seconds = [sum(row["cpu_seconds"].values()) for row in rows]
    return {
        "seeds": sorted({row["row"]["seed"] for row in rows}),
        "folds": sorted({row["row"]["fold"] for row in rows}),
        "rows": len(rows),
        "core_hours": sum(seconds) / 3600,
        "machines": sorted({row["machine"] for row in rows}),
        "versions": rows[-1]["versions"] | {"nnunet_difflung": ", ".join(_distinct(rows, "nnunet_difflung"))},
        "rows_kept": True,
        "first_row": min(row["date"] for row in rows),
        "last_row": max(row["date"] for row in rows),
    }


def _distinct(rows: list[dict], package: str) -> list[str]:
    """The versions of a package that rows were made with, sorted."""
    return sorted({row["versions"].get(package, "unknown") for row in rows})


def markdown(content: dict) -> str:
    """The tables for readers."""
    meta = content["meta"]
    rare, patch = meta["rare"], " × ".join(map(str, meta["network"]["patch_size"]))
    classes = list(next(iter(next(iter(content["numbers"].values())).values()))["figures"])
    lines = [
        f"# {meta['title']}: {rare} by number of source patients" + (" (tuning)" if meta["tuning"] else ""),
        "",
        f"{meta['rows']} trainings of {meta['iterations']} iterations; U-Net patches of {patch}, batch "
        f"{meta['network']['batch_size']}. `{meta['command']}`",
        "",
        "Mean ± standard deviation over the trainings that all arms of a table have. Differences are paired by "
        "patient, with a 95 % interval for new patients and new trainings (fold means, or patients and seeds if "
        "that is wider). Dice: mean over the patients who have the class. False voxels: in each patient without "
        "the class; ratio: of the means; factor: of 1 + voxels in the geometric mean over patients. False "
        "lesions: in each patient. At equal harm: at the threshold at which an arm has as many false voxels as "
        "the reference. Average precision: over the voxels of all patients, at every threshold; its interval is "
        "that of the folds' means.",
    ]
    for number, arms in content["numbers"].items():
        sources = next(iter(arms.values()))["sources"]
        lines += ["", f"## {number} source patients" + (f" ({sources:.0f})" if number == "all" else ""), ""]
        lines += [_how(content["made"][number]), ""]
        lines += _dice_rows(arms, rare)
        lines += ["", *_harm_rows(arms, rare, [name for name in classes if name != rare])]
    used = dict.fromkeys(arm for arms in content["numbers"].values() for arm in arms)
    lines += ["", *(f"- `{arm}`: {ARMS[arm].explanation}" for arm in used), ""]
    return "\n".join(lines)


def _how(made: dict) -> str:
    hours = f"; {made['core_hours']:.1f} core hours" if "core_hours" in made else ""
    days = dict.fromkeys((made["first_row"][:10], made["last_row"][:10]))
    return (
        f"{made['rows']} trainings; seeds {_listed(made['seeds'])}, folds {_listed(made['folds'])}; "
        f"{' to '.join(days)}{hours}."
        + ("" if made.get("rows_kept", True) else " Of an earlier version; the rows were not kept.")
    )


def _dice_rows(arms: dict, rare: str) -> list[str]:
    opponents = [name for name in OPPONENTS if name in arms]
    heads = [f"to {name} [95 %]" for name in opponents]
    heads += ["to reference at equal harm [95 %]", "average precision", "to reference [95 %]"]
    rows = []
    for arm, row in arms.items():
        figures = row["figures"][rare]
        differences = [row["differences"].get(name, {}).get(rare, {}).get("dice") for name in opponents]
        cells = [f"`{arm}`", str(figures["dice"]["trainings"]), _value(figures["dice"], 3)]
        cells.append(_value(figures["dice_pooled"], 3))
        cells += [shown(d["diff"], 3) if d else "–" for d in (*differences, row["at_equal_harm"])]
        precision = row["differences"].get("reference", {}).get(rare, {}).get(PRECISION)
        cells += [_value(figures[PRECISION], 3), shown(precision["diff"], 3) if precision else "–"]
        rows.append(cells)
    return table_lines(["arm", "trainings", f"Dice {rare}", "all voxels", *heads], rows)


def _harm_rows(arms: dict, rare: str, others: list[str]) -> list[str]:
    heads = ["lesions found", "false lesions", "false voxels", "ratio to reference", "factor [95 %]"]
    changes = [f"Dice {name}, to reference [95 %]" for name in others]
    rows = []
    for arm, row in arms.items():
        figures, to_reference = row["figures"][rare], row["differences"].get("reference", {})
        harm = to_reference.get(rare, {}).get("false_voxels") or {}
        ratio = harm.get("ratio")
        cells = [f"`{arm}`", _value(figures["lesion_sensitivity"], 3), _value(figures["false_lesions"], 2)]
        cells += [_value(figures["false_voxels"], 1), "–" if ratio is None else f"{ratio:.2f}"]
        cells.append(factor(harm.get("log10")))
        for name in others:
            change = to_reference.get(name, {}).get("dice")
            cells.append(_value(row["figures"][name]["dice"], 3) + (f", {shown(change['diff'], 4)}" if change else ""))
        rows.append(cells)
    return table_lines(["arm", *heads, *changes], rows)


def factor(log10: dict | None) -> str:
    """A difference of logarithms as a factor with its interval, such as ``2.6 [1.1, 6.0]``."""
    if log10 is None or log10["mean"] is None or not log10["ci95"]:
        return "–"
    mean, low, high = (f"{10**value:.1f}" for value in (log10["mean"], *log10["ci95"]))
    return f"{mean} [{low}, {high}]"


def _value(figure: dict, digits: int) -> str:
    if figure["mean"] is None:
        return "–"
    return f"{figure['mean']:.{digits}f}" + (f" ± {figure['sd']:.{digits}f}" if figure["sd"] is not None else "")


def _listed(values: list) -> str:
    return ", ".join(map(str, values))
