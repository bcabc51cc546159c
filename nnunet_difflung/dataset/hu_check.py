"""Whether the channels of a dataset that are called CT hold HU, as nnU-Net and the generators expect of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.reading import CaseFacts, is_ct
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.intensities import Judgement, Meaning

_NAMED = 3  # cases that a message names


@dataclass(frozen=True)
class Doubt:
    """A channel called CT that does not hold HU in some or all cases.

    Attributes:
        channel: number of the channel.
        cases: ids of the cases that do not hold HU, sorted.
        of: number of all cases.
        first: judgement of the first of them.
    """

    channel: int
    cases: tuple[str, ...]
    of: int
    first: Judgement

    def text(self, name: str) -> str:
        """What was found, for people; ``name`` is the channel's."""
        listed = ", ".join(self.cases[:_NAMED]) + (", …" if len(self.cases) > _NAMED else "")
        which = f"the first {self.cases[0]}" if len(self.cases) == self.of else listed
        return (
            f"channel {name} does not hold HU in {len(self.cases)} of {self.of} cases ({which}): {self.first.found()}, "
            f"{self.first.because()}; expected air at -1000 and soft tissue around 40"
        )


def doubts(raw: RawDataset, facts: Mapping[str, CaseFacts]) -> list[Doubt]:
    """The channels called CT that do not hold HU in all cases."""
    result = []
    for channel in range(len(raw.channels)):
        judged = {i: facts[i].judged[channel] for i in sorted(raw.cases) if facts[i].judged}
        wrong = {i: judgement for i, judgement in judged.items() if judgement is not None and judgement.not_hu}
        if wrong:
            result.append(Doubt(channel, tuple(wrong), len(raw.cases), next(iter(wrong.values()))))
    return result


def channels_in_hu(raw: RawDataset, judged: Iterable[Sequence[Judgement | None]]) -> tuple[int, ...]:
    """Numbers of the channels that are called CT and hold HU, as far as can be told.

    Args:
        raw: the dataset.
        judged: of its cases, what the values of each channel mean (``CaseFacts.judged``); empty where it is not known.
    """
    known = [of_case for of_case in judged if of_case]
    wrong = {n for of_case in known for n, judgement in enumerate(of_case) if judgement and judgement.not_hu}
    return tuple(n for n, name in enumerate(raw.channels) if is_ct(name) and n not in wrong)


def check_hu(raw: RawDataset, facts: Mapping[str, CaseFacts], windows_given: bool) -> list[str]:
    """Refuses a channel called CT that does not hold HU.

    Args:
        raw: the dataset.
        facts: of its cases.
        windows_given: whether the user has said which intensities to paint, so that nothing depends on HU.

    Returns:
        Warnings, where a refusal was overruled.

    Raises:
        BadInput: says what was found, and what to do.
    """
    found = [(doubt, raw.channels[doubt.channel]) for doubt in doubts(raw, facts)]
    if windows_given:
        return [f"Warning: {raw.name}: {doubt.text(name)}; going on with the given --window" for doubt, name in found]
    for doubt, name in found:
        raise BadInput(f"{raw.name}: {doubt.text(name)}: {_remedy(raw, doubt, name)}")
    return []


def _remedy(raw: RawDataset, doubt: Doubt, name: str) -> str:
    first = doubt.first
    all_cases = len(doubt.cases) == doubt.of
    images = "the images" if all_cases else "the images of these cases"
    new_name = "stored_values"
    if first.meaning is Meaning.OFFSET:
        amount = f"{abs(first.intercept):g}" if first.exact else f"the offset (about {abs(first.intercept):g})"
        ways = [f"subtract {amount} from {images}" if first.intercept < 0 else f"add {amount} to {images}"]
    elif first.meaning is Meaning.INVERTED:
        constant = f"{first.intercept:g}" if first.exact else f"about {first.intercept:g}"
        ways = [f"replace {images} by {constant} minus their values"]
    elif first.meaning is Meaning.SCALED:
        ways = [f"multiply {images} by {first.slope:g}"]
    elif first.meaning is Meaning.WRAPPED:
        ways = [f"write {images} again with signed values"]
    else:
        new_name = "lung_window_8bit" if first.low >= 0 and 1 < first.high <= 255 else "windowed"
        ways = [] if all_cases else ["export these cases again in HU, or remove them"]
    if not all_cases:  # no name and no range of values suits all cases
        return ways[0]
    ways.append(
        f"rename the channel in {raw.folder / 'dataset.json'}, for example to {new_name}, if the values are as they "
        f"should be (their range is then taken from the training cases)"
    )
    if len(raw.channels) == 1:
        ways.append(f"give --window={first.low:g},{first.high:g} to paint this range of the values as they are")
    else:
        ways.append("give --window=LOW,HIGH once for each channel to paint these ranges of the values as they are")
    return ", or ".join(ways)
