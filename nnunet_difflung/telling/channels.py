"""What was found out about the channels of a fold's training cases, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_difflung.dataset.channels import Relations, named

_TELLS = 0.5  # difference of a channel's means in a pathology and in normal lung, as a share of its highest value


def describe_channels(relations: Relations, names: Sequence[str]) -> list[str]:
    """Which channels are not painted freely, and which tell a pathology's label; none for a single ordinary channel.

    Args:
        relations: of a fold's training cases.
        names: of the channels.
    """
    lines = [_sentence(relations, number, names) for number in range(len(relations.channels))]
    tells = [_warning(relations, number, names) for number in range(len(relations.means))]
    return [line for line in (*lines, *tells) if line]


def _sentence(relations: Relations, number: int, names: Sequence[str]) -> str:
    channel, which = relations.channels[number], named([number], names)
    values = ", ".join(f"{value:g}" for value in channel.values)
    if channel.kind == "constant":
        return f"  {which} has the same value everywhere in each training case, so it is not painted"
    if channel.kind == "mask":
        return (
            f"  {which} is a mask with the values {values} that the label decides in all training cases, so it is set "
            f"by the new label, not painted"
        )
    if channel.kind == "kept":
        return (
            f"  {which} has only the values {values} in the training cases and does not change where lesions begin, so "
            f"the host's values are kept"
        )
    if channel.kind == "few":
        return f"  {which} has only the values {values} in the training cases; painted values are set to the nearest"
    if channel.source is None:
        return ""
    leader = named([channel.source], names)
    if channel.kind == "copy":
        return f"  {which} equals {leader} in all training cases, so {leader} is painted and copied"
    return (
        f"  {which} follows from {leader} in the lungs of all training cases (such as another window of the same "
        f"image); painted values are set to what occurs together"
    )


def _warning(relations: Relations, number: int, names: Sequence[str]) -> str:
    means, which = relations.means[number], named([number], names)
    if not means:
        return ""
    normal, *pathologies = means.items()
    told = [(name, mean) for name, mean in pathologies if abs(mean - normal[1]) >= _TELLS]
    if not told:
        return ""
    name, mean = max(told, key=lambda part: abs(part[1] - normal[1]))
    return (
        f"  Warning: {which} tells where {name} is (its mean is {mean:.2f} of its highest value there, "
        f"{normal[1]:.2f} in {normal[0]}), as the answer of an earlier network or the label itself does. Synthetic "
        f"cases show it as the training cases do, not as that network would answer. If the channel is not equally "
        f"good for new patients, leave it out of the dataset"
    )


def set_by_rule(relations: Relations) -> list[int]:
    """The channels whose values no network decides, so that they say nothing about the generator."""
    painted = relations.painted()
    return [number for number in range(len(relations.channels)) if number not in painted]
