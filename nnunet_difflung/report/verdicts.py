"""The lights at the top of the report: what to look at before training on the synthetic cases."""

from __future__ import annotations

from collections.abc import Iterator

from nnunet_difflung.judging.memorisation import expected_share, fewest_suspicious, is_suspicious
from nnunet_difflung.lesions.likeness import LIMIT
from nnunet_difflung.lesions.plan import shares
from nnunet_difflung.pages.blocks import Light, State
from nnunet_difflung.report.records import Records, folds_named
from nnunet_difflung.runtime.wording import counted
from nnunet_difflung.telling.likeness import named
from nnunet_difflung.telling.quality import FEW, figure, meaning, span, value

_COPIES = 0.05  # share of cases that is beyond chance; if only larger ones are, the light says so
_REACHED = 0.9  # of a target, which is then as good as reached
_DROPPED = 0.25  # share of the planned cases


def verdicts(records: Records) -> list[Light]:
    """A light for each question, in no order."""
    return [
        _leaks(records),
        _finished(records),
        *_dropped(records),
        *_targets(records),
        *_masks(records),
        *_gate(records),
        *_figures(records),
        *_seams(records),
        *_copies(records),
        *_images(records),
    ]


def _leaks(records: Records) -> Light:
    problems, notes = records.audit.problems, records.audit.notes
    if problems:
        shown = "; ".join(records.hidden(problem.text) for problem in problems[:3])
        return Light("bad", "Leaks", f"{counted(len(problems), 'problem')}: {shown}")
    said = f" {counted(len(notes), 'thing')} could not be checked (see the audit)." if notes else ""
    return Light(
        "look" if notes else "good",
        "Leaks",
        f"By the records and files, no synthetic case of a fold was made from one of its validation patients.{said}",
    )


def _finished(records: Records) -> Light:
    stopped = [f"fold {row['fold']}: {records.hidden(row['stopped'])}" for row in records.rows if row.get("stopped")]
    if stopped:
        return Light("bad", "Run", f"It was stopped, and nothing was injected: {'; '.join(stopped)}")
    if records.unfinished:
        folds = ", ".join(records.unfinished)
        return Light("look", "Run", f"Not all folds are finished: {folds}. Run the same command again to resume.")
    if records.removed:
        folds = ", ".join(map(str, records.removed))
        return Light("look", "Run", f"The synthetic cases of fold {folds} are no longer in the dataset (removed).")
    if not records.rows:
        return Light("look", "Run", "The dataset holds no run of this method (removed).")
    numbered = [row["fold"] for row in records.rows if row["fold"] != "all"]
    whole = [] if len(numbered) == len(records.rows) else ["fold all"]
    of_split = [f"{counted(len(numbered), 'fold')} of {records.raw.number_of_folds}"] if numbered or not whole else []
    return Light("good", "Run", f"{' and '.join(of_split + whole)} finished.")


def _dropped(records: Records) -> Iterator[Light]:
    planned = sum(row["planned"] for row in records.rows)
    dropped = sum(len(row["dropped"]) for row in records.rows)
    if not records.rows:
        return
    if not planned:
        yield Light("unknown", "Dropped cases", "No synthetic case was planned: see the notes below the classes.")
        return
    state: State = "bad" if dropped == planned else "look" if dropped > _DROPPED * planned else "good"
    yield Light(state, "Dropped cases", f"{planned - dropped} of {planned} planned cases were kept.")


def _targets(records: Records) -> Iterator[Light]:
    short, met = [], 0
    targets = {run["fold"]: run["summary"].get("targets", {}) for run in records.runs}
    for row in records.rows:
        after = shares(row["after"])
        for name, target in targets.get(row["fold"], {}).items():
            if after.get(name, 0.0) >= _REACHED * target:
                met += 1
            else:
                short.append(f"{name} in fold {row['fold']} ({after.get(name, 0.0):.1%} of {target:.1%})")
    if short:
        yield Light("look", "Targets", f"The plan stays below the target: {'; '.join(short)}.")
    elif met:
        yield Light("good", "Targets", f"The plan reaches at least {_REACHED:.0%} of every target.")


def _masks(records: Records) -> Iterator[Light]:
    """Place, crowding and size of the planned lesions against the real ones."""
    differing, alike, few, reach = [], 0, 0, 0.0
    for row in records.rows:
        for name, figures in row.get("likeness", {}).items():
            wrong = [named(figure) for figure, of in figures.items() if of["alike"] is False]
            alike += sum(of["alike"] is True for of in figures.values())
            few += sum(of["alike"] is None for of in figures.values())
            reach = max([reach, *(of["limit"] for of in figures.values() if of["alike"])])
            if wrong:
                differing.append(f"{name} in fold {row['fold']}: {', '.join(wrong)}")
    if differing:
        text = f"Planned lesions differ from real ones in {'; '.join(differing)}."
        yield Light("look", "Place and crowding of lesions", text)
    elif alike:
        rest = f" ({few} figures have too few cases)" if few else ""
        said = f"Planned lesions lie where real ones lie{rest}."
        if reach > LIMIT:
            said = f"No difference from real lesions was found; so few show only one of {reach:.2f} in the AUC{rest}."
        yield Light("good", "Place and crowding of lesions", said)
    elif few:
        yield Light("unknown", "Place and crowding of lesions", "There are too few real lesions to compare with.")


def _gate(records: Records) -> Iterator[Light]:
    """Whether passing the gate means anything."""
    gates: dict[str, list[int | str]] = {}
    for fold, settings in records.settings_of_folds.items():
        gates.setdefault(settings["sampling"]["gate"], []).append(fold)
    if list(gates) == ["off"]:
        yield Light("unknown", "Gate", "It was off (--gate off): no painted lesion was compared with real ones.")
        return
    of_folds = "; ".join(f"--gate {gate} in {folds_named(folds)}" for gate, folds in gates.items())
    mixed = f" Not the same in all folds: {of_folds}." if len(gates) > 1 else ""
    verdicts = [(row["fold"], name, of) for row in records.rows for name, of in row.get("verdicts", {}).items()]
    powerless = [f"{name} in fold {fold}" for fold, name, verdict in verdicts if not verdict["judged"]]
    if powerless:
        yield Light(
            "look",
            "Gate",
            f"It cannot tell lesions from normal lung by intensity: {', '.join(powerless)}. Look at their pictures."
            f"{mixed}",
        )
    elif verdicts:
        said = "It lets painted lesions pass and stops the normal lung that was there before."
        yield Light("unknown" if "off" in gates else "good", "Gate", f"{said}{mixed}")


def _figures(records: Records) -> Iterator[Light]:
    """Spread, texture, contrast and continuity of all cases together against real lesions."""
    pooled = [
        (row["fold"], name, verdict)
        for row in records.rows
        for name, of in row.get("verdicts", {}).items()
        for verdict in of["pooled"]
    ]
    off = [
        f"{name} in fold {fold}: {figure(verdict)} {value(verdict)} ({span(verdict)}){meaning(verdict)}"
        for fold, name, verdict in pooled
        if verdict["within"] is False
    ]
    if off:
        yield Light("look", "Spread and texture", f"Outside the range of real lesions: {'; '.join(off)}.")
        return
    vague = sorted({name for _, name, verdict in pooled if verdict["within"] is None or verdict["patients"] <= FEW})
    if vague:
        text = (
            f"At most {FEW} training patients have {', '.join(vague)}, so the range is uncertain: look at the pictures."
        )
        yield Light("unknown", "Spread and texture", text)
    elif pooled:
        yield Light("good", "Spread and texture", "All figures lie in the range of real lesions.")


def _seams(records: Records) -> Iterator[Light]:
    """Whether the painted regions show where they end."""
    seams = [
        (row["fold"], name, seam)
        for row in records.rows
        for name, of in {**row.get("verdicts", {}), "placebo": row.get("placebo", {})}.items()
        for seam in of.get("seam", ())
    ]
    off = [
        f"{name} in fold {fold}: {figure(seam)} {value(seam)}{meaning(seam)}"
        for fold, name, seam in seams
        if seam["within"] is False
    ]
    if off:
        yield Light("look", "Edges", f"Painted regions differ from their surroundings: {'; '.join(off)}.")
    elif any(seam["within"] for _, _, seam in seams):
        yield Light("good", "Edges", "Painted regions join the lung around them as it did before.")
    elif seams:
        yield Light("unknown", "Edges", "There are too few painted cases to say whether their edges show.")


def _copies(records: Records) -> Iterator[Light]:
    rows = [(row["fold"], name, of) for row in records.rows for name, of in row.get("memorisation", {}).items()]
    known = [(fold, name, of) for fold, name, of in rows if of["share_above_real_p99"] is not None]
    close = [
        f"{name} in fold {fold}: {of['share_above_real_p99']:.0%} ({expected_share(of):.0%} expected)"
        for fold, name, of in known
        if is_suspicious(of)
    ]
    least = [fewest_suspicious(of) / of["cases"] for *_, of in known]  # share of the cases that is beyond chance
    shown = [share for share in least if share <= 1]
    if close:
        yield Light(
            "look",
            "Copies",
            "More synthetic cases than by chance are closer to a training slice than 99 % of real lesions are to "
            f"another patient's: {'; '.join(close)}.",
        )
    elif shown:
        said = "Painted lesions are no closer to training slices than patients to each other."
        if max(shown) > _COPIES:
            said = (
                f"No copies were found; so few lesions or cases show them only from {max(shown):.0%} of the cases on."
            )
        yield Light("good", "Copies", said)
    elif rows:
        text = "There are too few real lesions (ten are needed) or synthetic cases to say what is close."
        yield Light("unknown", "Copies", text)


def _images(records: Records) -> Iterator[Light]:
    images = records.report.get("images")
    if not images:
        return
    pairs = images.get("suspicious_pairs_of_cases", 0)
    text = f"Pictures of training and validation cases: {images.get('judged', '')}."
    if pairs:
        text = f"{counted(pairs, 'pair')} of training and validation cases may show the same patient. {text}"
    compared = images.get("framed", 1)  # a report of an earlier version does not say
    yield Light("look" if pairs else "good" if compared else "unknown", "Patients", text)
