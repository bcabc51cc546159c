"""What the gate found, in sentences."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nnunet_difflung.dataset.channels import named
from nnunet_difflung.judging.continuity import FIGURES
from nnunet_difflung.runtime.wording import counted
from nnunet_difflung.telling.selection import not_recognised

_HALF = 0.5  # of the placebo cases; if fewer are kept, there is a warning
FEW = 3  # training patients; with so few the range of real lesions is uncertain
_FIGURES = {  # figure → its name, what follows its value, and the value's format
    "bias": ("pooled bias", "", "+.1f"),
    "sd_ratio": ("standard deviation", " of real", ".2f"),
    "texture": ("local differences", " of real", ".2f"),
    "contrast": ("contrast to normal lung", "", ".2f"),
    "correlation": ("correlation of neighbouring slices", "", ".2f"),
    "flicker": ("change of the mean from slice to slice", " of real", ".2f"),
    "difference": ("differences from slice to slice", " of real", ".2f"),
    "end_step": ("step at the first and last slice", " of real", ".2f"),
    "seam": ("step at the edge of what was painted", " times the step that was there", ".2f"),
}


def describe_quality(
    quality: dict[str, dict],
    verdicts: dict[str, dict],
    channels: Sequence[str] = (),
    unjudged: Sequence[int] = (),
    in_hu: Collection[int] = (),
) -> list[str]:
    """Lines about each class of a fold: its cases, the unpainted hosts, and the figures of all cases together.

    Args:
        quality: result of ``judging.gate.pooled``.
        verdicts: ``SynthesisResult.verdicts``.
        channels: names of the channels.
        unjudged: numbers of the channels whose values are not painted but set.
        in_hu: numbers of the channels that hold HU.
    """
    lines = []
    if unjudged:
        lines.append(f"  {named(unjudged, channels)}: not judged, since the values are set, not painted")
    for name in sorted({*quality, *verdicts}):
        if name in quality:  # it is not if none of the class's cases was kept
            row = quality[name]
            lines.append(f"  {name:<20}{_differing(row, channels, in_hu)}   {_passing(row, verdicts.get(name))}")
        if name in verdicts:
            lines += _unpainted(name, verdicts[name])
            lines += _pooled(name, verdicts[name]["pooled"])
            lines += describe_seam(name, verdicts[name].get("seam", ()))  # an earlier version did not measure it
    return lines


def _differing(row: dict, channels: Sequence[str], in_hu: Collection[int]) -> str:
    """Bias and distance of a class, in HU where that is the unit, and the channel they are of if there are several."""
    number = row.get("channel", 0)
    unit = " HU" if number in in_hu else ""
    bias, distance = (
        f"{value:{sign}{width}.1f}" if unit or abs(value) >= 1 else f"{value:{sign}{width}.3g}"
        for value, sign, width in ((row["bias"], "+", 8), (row["wasserstein"], "", 7))
    )
    of = f" in {channels[number]}" if "channel" in row and number < len(channels) else ""
    return f"bias {bias}{unit}   Wasserstein distance {distance}{unit}{of}"


def describe_placebo(placebo: dict, channels: Sequence[str] = (), in_hu: Collection[int] = ()) -> list[str]:
    """Lines about the placebo cases of a fold; none without placebo cases.

    Args:
        placebo: ``SynthesisResult.placebo``.
        channels: names of the channels.
        in_hu: numbers of the channels that hold HU.
    """
    if not placebo:
        return []
    lines = [
        f"  {counted(placebo['kept'], 'placebo case')}: normal lung repainted as normal lung in outlines of lesions "
        f"({placebo['planned']} planned), {placebo['share']:.0%} of the synthetic cases"
    ]
    if placebo["kept"] < _HALF * (placebo["planned"] - placebo.get("excluded", 0)):
        lines.append(
            "  Warning: more than half of the placebo cases were dropped, so there are fewer than --placebo asks for: "
            "normal lung is not painted like normal lung, or differs much between the patients"
        )
    row = placebo["quality"]
    if row:
        lines.append(
            f"  {'placebo':<20}{_differing(row, channels, in_hu)}   {row['passing']} of {row['cases']} cases look like "
            "normal lung of the training cases"
        )
    return lines + describe_seam("placebo", placebo.get("seam", ()))


def describe_seam(name: str, seams: Sequence[dict]) -> list[str]:
    """A line for each channel on the edge of what was painted for a class.

    Args:
        name: of the class.
        seams: result of ``judging.verdict.judge_seam``.
    """
    lines = []
    for seam in seams:
        if seam["within"] is None:
            few = f"{counted(seam['cases'], 'case')} {'is' if seam['cases'] == 1 else 'are'} too few"
            lines.append(f"  {name}: {_value(seam)}; not judged, since {few}")
        elif seam["within"]:
            lines.append(f"  {name}: {_value(seam)} ({span(seam)})")
        else:
            lines.append(f"  Warning: {name}: {_value(seam)}, is outside {span(seam)}{meaning(seam)}")
    return lines


def _passing(row: dict, verdict: dict | None) -> str:
    if verdict is not None and not verdict["judged"]:
        return "not judged by intensity"
    return f"{row['passing']} of {row['cases']} cases pass the gate"


def _unpainted(name: str, verdict: dict) -> list[str]:
    hosts, passing, bound = (verdict["unpainted"][key] for key in ("hosts", "passing", "upper_bound"))
    if not hosts:  # painted or real lesions are too small, or an earlier version measured them
        return [
            f"  {name} cannot be judged by intensity: no unpainted host was measured (this needs eight voxels of "
            f"the class in a real slice and in a painted case)"
        ]
    if verdict["judged"]:
        return [f"  {name}: {passing} of {hosts} unpainted hosts would pass too"]
    if passing == 0:
        return [
            f"  {name} cannot be judged by intensity: 0 of {hosts} unpainted hosts would pass, but so few do not "
            f"show that the gate stops normal lung (up to {bound:.0%} might pass)"
        ]
    return [f"  {name} cannot be judged by intensity: {passing} of {hosts} unpainted hosts would pass too"]


def _pooled(name: str, verdicts: list[dict]) -> list[str]:
    """A line on the pooled figures that lie in the range of real lesions, and one on each other figure."""
    lines, within = [], [verdict for verdict in verdicts if verdict["within"]]
    if within:
        ranges = ", ".join(f"{_value(verdict)} ({span(verdict)})" for verdict in within)
        lines.append(f"  {name}: {ranges}; in brackets the range of real lesions of {_patients(within[0])}")
    unjudged = [verdict for verdict in verdicts if verdict["within"] is None]
    for figures, why in (
        ([v for v in unjudged if v["figure"] not in FIGURES], "only one training patient has the class"),
        ([v for v in unjudged if v["figure"] in FIGURES], "it is known of fewer than two training patients"),
    ):
        if figures:
            lines.append(f"  {name}: {', '.join(map(_value, figures))}; not judged, since {why}")
    return lines + [
        f"  Warning: {name}: {_value(verdict)} is outside {span(verdict)}, the range of real lesions of "
        f"{_patients(verdict)}{meaning(verdict)}"
        for verdict in verdicts
        if verdict["within"] is False
    ]


def _value(verdict: dict) -> str:
    return f"{figure(verdict)} {value(verdict)}"


def figure(verdict: dict) -> str:
    """The name of a pooled figure, or of the seam, and of its channel unless that is the first one."""
    channel = f" in channel {verdict['channel']}" if verdict["channel"] else ""
    return f"{_FIGURES[verdict['figure']][0]}{channel}"


def value(verdict: dict) -> str:
    """The value of a pooled figure, and whether it is a multiple of that of real lesions."""
    return f"{_number(verdict, 'value')}{_FIGURES[verdict['figure']][1]}"


def span(verdict: dict) -> str:
    """The range of a pooled figure of real lesions."""
    return f"{_number(verdict, 'low')} to {_number(verdict, 'high')}"


def _number(verdict: dict, key: str) -> str:
    fine = verdict["figure"] == "bias" and max(abs(verdict[part] or 0) for part in ("value", "low", "high")) < 1
    return format(verdict[key], "+.3f" if fine else _FIGURES[verdict["figure"]][2])


def _patients(verdict: dict) -> str:
    few = "; so few that the range is uncertain" if verdict["patients"] <= FEW else ""
    return f"{verdict['patients']} training patients{few}"


def meaning(verdict: dict) -> str:
    """What a pooled figure outside the range means, after a colon; empty if its name says it."""
    which, below = verdict["figure"], verdict["value"] < verdict["low"]
    if which == "texture":
        return ": too smooth" if below else ": too grainy"
    if which == "seam":
        return ": the edge is too smooth" if below else ": the edge shows"
    if which == "correlation":
        return ": too different from slice to slice" if below else ": too alike from slice to slice"
    return ": too close to normal lung" if which == "contrast" and below else ""


def faults(measured: dict, channels: Sequence[str] = ()) -> str:
    """The reasons why a case was dropped; ``channels`` are the channels' names."""
    if measured.get("excluded"):
        return "excluded by a reader (--exclude)"
    reasons = []
    for name, row in {**measured["quality"], **measured.get("placebo_quality", {})}.items():
        if row["passes"]:
            continue
        difference, most = row.get("own_difference"), row.get("max_own_difference")
        if difference is not None and abs(difference) > most:
            reasons.append(
                f"{name} differs by {difference:+.3g} from the normal lung of its own image (at most {most:.3g})"
            )
        contrast, minimum = row.get("contrast"), row.get("min_contrast")
        if contrast is not None and minimum is not None and contrast < minimum:
            reasons.append(f"{name} is too close to normal lung (contrast {contrast:.2f}, at least {minimum:.2f})")
        reasons += [
            f"{name} bias{f' in channel {number}' if number else ''} {part['bias']:+.3g} (at most "
            f"{part['max_bias']:.3g}), distance {part['wasserstein']:.3g} (at most {part['max_wasserstein']:.3g})"
            for number, part in enumerate(row.get("channels", [row]))
            if number not in row.get("unjudged", ())
            and (abs(part["bias"]) > part["max_bias"] or part["wasserstein"] > part["max_wasserstein"])
        ]
        reasons += [f"{name}: {_misfit(pair, channels)}" for pair in row.get("pairs", ()) if not pair["passes"]]
    reasons += [
        f"{name} resembles {row['nearest_case']} (correlation {row['similarity']:.2f})"
        for name, row in measured["memorisation"].items()
        if row and row["above_real_p99"]
    ]
    return ", ".join(reasons + not_recognised(measured))


def _misfit(pair: dict, channels: Sequence[str]) -> str:
    which = named(pair["channels"], channels or [f"channel {number}" for number in range(max(pair["channels"]) + 1)])
    if pair["figure"] == "correlation":
        return f"{which} correlate by {pair['value']:.2f} (in real lesions {pair['low']:.2f} to {pair['high']:.2f})"
    return f"{which} do not fit each other as in real lesions (off by {pair['value']:.3g}, at most {pair['high']:.3g})"
