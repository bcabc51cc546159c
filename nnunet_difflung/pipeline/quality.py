"""What the gate found, in sentences."""

from __future__ import annotations

_FEW = 3  # training patients; with so few the range of real patients is wide


def describe_quality(quality: dict[str, dict], verdicts: dict[str, dict]) -> list[str]:
    """Lines about each class of a fold: its cases, the unpainted hosts, and the figures of all cases together.

    Args:
        quality: result of ``painting.gate.pooled``.
        verdicts: result of ``painting.verdict.judge``.
    """
    lines = []
    for name, row in quality.items():
        lines.append(
            f"  {name:<20}bias {row['bias']:+8.1f}   Wasserstein distance {row['wasserstein']:7.1f}   "
            f"{_passing(row, verdicts.get(name))}"
        )
        if name in verdicts:
            lines += _unpainted(name, verdicts[name])
            lines += [f"  {_pooled(name, verdict)}" for verdict in verdicts[name]["pooled"]]
    return lines


def _passing(row: dict, verdict: dict | None) -> str:
    if verdict is not None and not verdict["judged"]:
        return "not judged by intensity"
    return f"{row['passing']} of {row['cases']} cases pass the gate"


def _unpainted(name: str, verdict: dict) -> list[str]:
    hosts, passing, bound = (verdict["unpainted"][key] for key in ("hosts", "passing", "upper_bound"))
    if not hosts:  # measured by an earlier version
        return [f"  {name} cannot be judged by intensity: no unpainted host was measured"]
    if verdict["judged"]:
        return [f"  {name}: {passing} of {hosts} unpainted hosts would pass too"]
    if passing == 0:
        return [
            f"  {name} cannot be judged by intensity: none of {hosts} unpainted hosts would pass, but so few do not "
            f"show that the gate stops normal lung (up to {bound:.0%} might pass)"
        ]
    return [f"  {name} cannot be judged by intensity: {passing} of {hosts} unpainted hosts would pass too"]


def _pooled(name: str, verdict: dict) -> str:
    """A sentence on a pooled figure; a warning if it lies outside the range of real patients."""
    figure, within = verdict["figure"], verdict["within"]
    channel = f" in channel {verdict['channel']}" if verdict["channel"] else ""
    if figure == "bias":
        value, form = f"pooled bias {verdict['value']:+.1f}", "+.1f"
    elif figure == "contrast":
        value, form = f"contrast to normal lung {verdict['value']:.2f} (real lesions: 1)", ".2f"
    elif figure == "sd_ratio":
        value, form = f"standard deviation {verdict['value']:.2f} of real", ".2f"
    else:
        value, form = f"local differences {verdict['value']:.2f} of real", ".2f"
    if within is None:
        return f"{name}{channel}: {value}; not judged, since only {verdict['patients']} training patient has the class"
    span = f"{verdict['low']:{form}} to {verdict['high']:{form}}"
    few = ", so the range is wide" if verdict["patients"] <= _FEW else ""
    of = f"of a real patient ({verdict['patients']} training patients{few})"
    if within:
        return f"{name}{channel}: {value}, within the {span} {of}"
    return f"Warning: {name}{channel}: {value} is outside the {span} {of}{_meaning(verdict)}"


def _meaning(verdict: dict) -> str:
    figure, below = verdict["figure"], verdict["value"] < verdict["low"]
    if figure == "texture":
        return "; the painted lesions are too smooth" if below else "; the painted lesions are too grainy"
    if figure == "contrast" and below:
        return "; the painted lesions are too close to normal lung"
    return ""


def faults(measured: dict) -> str:
    """The reasons why a case was dropped."""
    reasons = []
    for name, row in measured["quality"].items():
        if row["passes"]:
            continue
        contrast, minimum = row.get("contrast"), row.get("min_contrast")
        if contrast is not None and minimum is not None and contrast < minimum:
            reasons.append(f"{name} is too close to normal lung (contrast {contrast:.2f}, at least {minimum:.2f})")
        reasons += [
            f"{name} bias {part['bias']:+.0f} (at most {part['max_bias']:.0f}), distance {part['wasserstein']:.0f} (at "
            f"most {part['max_wasserstein']:.0f})"
            for part in row.get("channels", [row])
            if abs(part["bias"]) > part["max_bias"] or part["wasserstein"] > part["max_wasserstein"]
        ]
    reasons += [
        f"{name} resembles {row['nearest_case']} (correlation {row['similarity']:.2f})"
        for name, row in measured["memorisation"].items()
        if row and row["above_real_p99"]
    ]
    return ", ".join(reasons)
