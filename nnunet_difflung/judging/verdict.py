"""What a fold's cases show together: can the gate say no, and do the cases as a whole look like real lesions?

The first question is answered by the unpainted hosts, judged in the voxels that get a new label. The second by figures
pooled over all cases, since a shift that every single case may have is harmful if all cases have it. Their range is
where the mean of as many other patients would lie (a 95 % prediction interval from the training patients), so it is
uncertain with two or three patients (mostly wide), and there is none with one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from nnunet_difflung.judging.continuity import FIGURES, RealContinuity
from nnunet_difflung.judging.gate import ChannelReference, ClassReference

_MAX_SHARE = 0.1  # of the unpainted hosts that may pass a gate that is evidence
_MAX_BOUND = 1 / 3  # of the upper 95 % confidence bound of that share; eight hosts, none of which passes, reach it
_MIN_PATIENTS = 2  # minimum sample size for a range
_MIN_CASES = 5  # minimum sample size for the standard error of the seam
_LEAST_RATIO = float(np.log(1.1))  # smallest reach of the range of a ratio's logarithm
_LEAST_CONTRAST = 0.1  # smallest reach of the range of the contrast
_LEAST_CORRELATION = 0.1  # smallest reach of the range of the correlation of neighbouring slices
_SMALLEST = 1e-3  # smaller ratios count as this one
_WIDEST = float(np.log(10))  # no larger reach of a ratio's logarithm is stated


def judge(
    rows: Sequence[dict[str, dict]],
    first_rows: Sequence[dict[str, dict]],
    references: Mapping[str, ClassReference],
    planned: Iterable[str] = (),
) -> dict[str, dict]:
    """Judges each class of a fold.

    Args:
        rows: class → measurements, of each staged case.
        first_rows: the same of the first try of every planned case.
        references: references of the fold's training cases.
        planned: the classes that were painted; lesions of less than eight voxels have no measurements, and neither has
            a class whose real lesions are so small.

    Returns:
        class → {judged, unpainted, pooled}; ``painting.synthesis`` adds ``seam`` (``judge_seam``). ``unpainted`` is
        {hosts, passing, upper_bound}: the number of unpainted hosts, how many pass the gate, and the exact upper 95 %
        confidence bound of their share. ``judged`` says whether passing the gate is evidence: at most 10 % of them
        pass, and the bound is at most a third. ``pooled`` is a list of {figure, channel, value, low, high, within,
        patients} for the staged cases; low, high and within are None if fewer than two patients have the class.
    """
    verdicts = {}
    for name in sorted({*planned, *(name for row in first_rows for name in row)}):
        unpainted = [row[name]["unpainted_passes"] for row in first_rows if "unpainted_passes" in row.get(name, {})]
        hosts, passing = len(unpainted), sum(unpainted)
        bound = upper_bound(passing, hosts)
        staged = [row[name] for row in rows if name in row]
        verdicts[name] = {
            "judged": bool(hosts and passing <= _MAX_SHARE * hosts and bound <= _MAX_BOUND),
            "unpainted": {"hosts": hosts, "passing": passing, "upper_bound": round(bound, 3)},
            "pooled": _pooled_verdicts(staged, references[name]) if staged and name in references else [],
        }
    return verdicts


def judge_continuity(rows: Sequence[dict], references: Sequence[RealContinuity], judged: Iterable[int]) -> list[dict]:
    """Verdicts on how a class goes on from slice to slice, of the same form as ``pooled``.

    The correlation of neighbouring slices stands for itself; the other figures are divided by those of real lesions.

    Args:
        rows: of each staged case, from ``continuity.measured``: for each channel figure → value.
        references: for each channel.
        judged: numbers of the channels that count, in which the class is not constant.
    """
    verdicts = []
    for channel in judged:
        real = references[channel]
        for figure in FIGURES:
            parts = [row[channel] for row in rows if figure in row[channel]]
            if not parts or not real.all.get(figure):
                continue
            own, patients = real.all[figure], real.patients[figure]
            if figure == "correlation":
                accepted = _range(patients, own, _LEAST_CORRELATION)
            else:
                parts = [part | {figure: part[figure] / own} for part in parts]
                accepted = _ratio_range([value / own for value in patients], 1.0)
            weights = [part["ends" if figure == "end_step" else "pairs"] for part in parts]
            verdicts.append(_verdict(figure, channel, parts, accepted, weights) | {"patients": len(patients)})
    return verdicts


def judge_seam(rows: Sequence[dict], judged: Iterable[int], real: Sequence[float] = ()) -> list[dict]:
    """Verdicts on the step at the edge of what was painted, as a multiple of the host's own step there.

    Args:
        rows: of each staged case, from ``seam.seam_of``: for each channel {painted, host, pairs}.
        judged: numbers of the channels that count.
        real: for each channel the figure of real lesions (``seam.real_seams``); empty, as for placebo cases: 1.

    Returns:
        {figure, channel, value, real, low, high, within, cases} for each channel. ``value`` is the geometric mean over
        the cases. The range reaches a factor of 1.1 up and down from ``real``, and twice the standard error further;
        with fewer than five cases there is none.
    """
    verdicts = []
    for channel in judged:
        ratios = [row[channel]["painted"] / row[channel]["host"] for row in rows if row[channel]["host"] > 0]
        if not ratios:
            continue
        logarithms, expected = np.log(np.maximum(ratios, _SMALLEST)), real[channel] if real else 1.0
        low = high = within = None
        value = float(np.exp(logarithms.mean()))
        if len(ratios) >= _MIN_CASES:
            chance = 2 * float(logarithms.std(ddof=1)) / np.sqrt(len(ratios))
            low, high = (expected * float(np.exp(sign * (_LEAST_RATIO + chance))) for sign in (-1, 1))
            within = bool(low <= value <= high)
        verdicts.append(
            {
                "figure": "seam",
                "channel": channel,
                "value": round(value, 3),
                "real": round(expected, 3),
                "low": None if low is None else round(low, 3),
                "high": None if high is None else round(high, 3),
                "within": within,
                "cases": len(ratios),
            }
        )
    return verdicts


def upper_bound(passing: int, hosts: int) -> float:
    """Exact (Clopper and Pearson) upper 95 % confidence bound of a share, one-sided; 1 without hosts."""
    from scipy.stats import beta  # importing it takes a second, which commands that end early save

    return 1.0 if passing == hosts else float(beta.ppf(0.95, passing + 1, hosts - passing))


def _pooled_verdicts(rows: Sequence[dict], real: ClassReference) -> list[dict]:
    verdicts = []
    several = len(real.channels) > 1  # records of earlier versions hold one channel, and do not say which
    for channel in real.judged:
        reference = real.channels[channel]
        parts = [row["channels"][channel] if several else row for row in rows if "channels" in row or not several]
        if parts:
            verdicts += _of_channel(parts, reference, channel)
    contrasts = [row for row in rows if row.get("contrast") is not None]
    if contrasts and real.contrast:
        patients = real.contrast.patients
        verdict = _verdict("contrast", None, contrasts, _range(patients, 1.0, _LEAST_CONTRAST))
        verdicts.append(verdict | {"patients": len(patients)})
    return verdicts


def _of_channel(parts: Sequence[dict], reference: ChannelReference, channel: int) -> list[dict]:
    least = reference.max_bias / 2 if reference.constant else 0.1 * float(reference.values.std())
    verdicts = [_verdict("bias", channel, parts, _range(reference.bias_of_patients, 0.0, least))]
    if not reference.constant:
        spreads = _ratio_range(reference.spread_of_patients, reference.spread)
        verdicts.append(_verdict("sd_ratio", channel, parts, spreads))
        textures = [part for part in parts if part.get("texture") is not None]
        if textures and reference.grain_of_patients:
            verdicts.append(_verdict("texture", channel, textures, _ratio_range(reference.grain_of_patients, 1.0)))
    return [verdict | {"patients": len(reference.bias_of_patients)} for verdict in verdicts]


def _verdict(
    figure: str,
    channel: int | None,
    rows: Sequence[dict],
    accepted: tuple[float, float] | None,
    weights: Sequence[int] | None = None,
) -> dict:
    """The mean of a figure over cases, and whether it lies in the range of real patients.

    Without weights each case counts once, as each patient does in the range: large lesions have other figures than
    small ones, whose edge is most of them.
    """
    value = float(np.average([row[figure] for row in rows], weights=weights))
    low, high = accepted or (None, None)
    return {
        "figure": figure,
        "channel": channel,
        "value": round(value, 3),
        "low": None if low is None else round(low, 3),
        "high": None if high is None else round(high, 3),
        "within": None if low is None or high is None else bool(low <= value <= high),
    }


def _range(patients: Sequence[float], own: float, least: float) -> tuple[float, float] | None:
    """95 % prediction interval of the mean of as many further patients; None with fewer than two.

    Args:
        patients: a figure of each training patient.
        own: the figure of all training voxels together; the interval reaches at least ``least`` beyond it, as patients
            with many voxels count more in it, and patients that agree do not make a small difference harmful.
        least: see ``own``.
    """
    from scipy.stats import t

    if len(patients) < _MIN_PATIENTS:
        return None
    values = np.asarray(patients)
    reach = float(t.ppf(0.975, len(values) - 1) * values.std(ddof=1) * np.sqrt(2 / len(values)))
    return min(float(values.mean()) - reach, own - least), max(float(values.mean()) + reach, own + least)


def _ratio_range(patients: Sequence[float], own: float) -> tuple[float, float] | None:
    """The same for a ratio, from logarithms."""
    logarithms = _range(list(np.log(np.maximum(patients, _SMALLEST))), float(np.log(max(own, _SMALLEST))), _LEAST_RATIO)
    if logarithms is None:
        return None
    low, high = logarithms
    return float(np.exp(max(low, -_WIDEST))), float(np.exp(min(high, _WIDEST)))
