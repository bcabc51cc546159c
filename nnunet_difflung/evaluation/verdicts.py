"""The verdicts of Table 1: how far painted classes are from real ones, measured by real slices of other patients."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_difflung.methods import METHODS
from nnunet_difflung.pages.blocks import Light, Lights, State
from nnunet_difflung.runtime.wording import counted

FLOOR = "real_other_patients"
NEAR, FAR = 1.5, 3.0  # times the Wasserstein distance of real slices of other patients
MORE_TEXTURE = 0.1  # above the texture distance of real slices of other patients
SD = (0.8, 1.25)  # ratio of standard deviations that passes
SPREAD = (
    0.5,
    2.0,
)  # of the real voxels' standard deviation: samples that differ less are hardly different, more is noise
FEW = 5  # patients


def methods_of(table: dict) -> list[str]:
    """The methods of a table, without references."""
    return [name for name in table if name in METHODS]


def groups(table: dict) -> list[str]:
    """The classes with figures."""
    return list(dict.fromkeys(name for source, entry in table.items() if source != "meta" for name in entry["hu_bias"]))


def verdicts(table: dict, pathologies: Sequence[str]) -> Lights:
    """What a reader asks of the generators before anything else; of the pathologies, which are what is painted for."""
    judged = [name for name in groups(table) if name in pathologies] or groups(table)
    lights = []
    for method in methods_of(table):
        lights += [_intensities(table, method, judged), _texture(table, method, judged)]
        lights += _diversity(table, method, judged)
    meta = table["meta"]
    lights.append(Light("good", "Leaks", "no generator was trained on a validation patient of its fold"))
    text = f"{counted(meta['patients'], 'validation patient')}, {counted(meta['slices'], 'slice')}"
    if meta["patients"] < FEW:
        lights.append(Light("look", "Patients", f"{text}; fewer than {FEW} show little of how figures vary"))
    else:
        lights.append(Light("good", "Patients", text))
    return Lights(lights)


def _intensities(table: dict, method: str, names: Sequence[str]) -> Light:
    title = f"Intensities by {method}"
    unit = "HU" if table["meta"]["unit"] == "HU" else "grey levels"
    parts, worst = [], 0.0
    for name in names:
        own, floor = (table[source]["wasserstein"].get(name) for source in (method, FLOOR))
        if own is None or floor is None:
            continue
        times = own["mean"] / max(floor["mean"], 1e-9)
        bias = table[method]["hu_bias"][name]["mean"]
        worst = max(worst, times)
        parts.append(
            f"{name}: bias {bias:+.3g} {unit}, Wasserstein distance {own['mean']:.3g} {unit}, {times:.1f} times that "
            f"of real slices of other patients ({floor['mean']:.3g})"
        )
    if not parts:
        return Light("unknown", title, "no pathology has enough voxels in the painted slices and in the training cases")
    state: State = "good" if worst <= NEAR else "look" if worst <= FAR else "bad"
    return Light(state, title, "; ".join(parts))


def _texture(table: dict, method: str, names: Sequence[str]) -> Light:
    title = f"Texture by {method}"
    parts, passes = [], True
    for name in names:
        own, floor = (table[source]["texture"].get(name) for source in (method, FLOOR))
        ratio = table[method]["sd_ratio"].get(name)
        if ratio is not None:
            passes &= SD[0] <= ratio["mean"] <= SD[1]
            parts.append(f"{name}: {ratio['mean']:.2f} times the real standard deviation")
        if own is not None and floor is not None:
            passes &= own["mean"] <= floor["mean"] + MORE_TEXTURE
            parts.append(
                f"{name}: texture distance {own['mean']:.2f} (real slices of other patients: {floor['mean']:.2f})"
            )
    if not parts:
        return Light("unknown", title, "no pathology is large enough in the painted slices")
    return Light("good" if passes else "look", title, "; ".join(parts))


def _diversity(table: dict, method: str, names: Sequence[str]) -> list[Light]:
    """A verdict only where there are several samples of each mask."""
    ratios = {
        name: table[method]["diversity"][name]["mean"] / table["meta"]["real_sd"][name]
        for name in names
        if name in table[method]["diversity"] and table["meta"]["real_sd"].get(name)
    }
    if not ratios:
        return []
    text = "; ".join(
        f"{name}: samples of a mask differ by {ratio:.2f} times the real standard deviation"
        for name, ratio in ratios.items()
    )
    passes = all(SPREAD[0] <= ratio <= SPREAD[1] for ratio in ratios.values())
    return [Light("good" if passes else "look", f"Diversity by {method}", text)]
