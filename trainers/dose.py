"""How many of the patches are drawn by a rule of this package instead of nnU-Net's, in each epoch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SHARE = "DIFFLUNG_SYNTHETIC_SHARE"
SCHEDULE = "DIFFLUNG_SYNTHETIC_SCHEDULE"
BY_CASES = "cases"  # value of SHARE: every case is as likely as another, so the number of cases decides
SCHEDULES = ("constant", "falling")


@dataclass(frozen=True)
class Dose:
    """The expected share of such patches.

    Attributes:
        share: mean over the training, 0 to 1.
        schedule: ``constant``, or ``falling``: linearly from twice the share in the first epoch to 0 in the last, so
            that a training sees as many of these patches as with ``constant``; then ``share`` is at most 0.5.
    """

    share: float
    schedule: str = "constant"

    def at(self, epoch: int, epochs: int) -> float:
        """The share in an epoch, which depends on nothing else and so is the same after ``--c``.

        Args:
            epoch: 0 to ``epochs`` − 1; ``epochs``, where a finished training is continued, counts as the last.
            epochs: of the whole training; a training of one epoch has the mean.
        """
        if self.schedule == "constant" or epochs < 2:
            return self.share
        epoch = min(epoch, epochs - 1)
        return 2 * self.share * (1 - epoch / (epochs - 1))

    def as_record(self) -> dict[str, float | str]:
        """Content for a checkpoint."""
        return {"share": self.share, "schedule": self.schedule}


def dose_of(environment: Mapping[str, str], default: float | None) -> Dose | None:
    """The dose that the environment variables ask for.

    Args:
        environment: ``os.environ``.
        default: share where the variable is not set; None: as nnU-Net draws cases.

    Returns:
        None where every case is as likely as another.

    Raises:
        ValueError: a variable has a value that it cannot have; one line.
    """
    text, schedule = environment.get(SHARE) or "", environment.get(SCHEDULE) or SCHEDULES[0]
    if schedule not in SCHEDULES:
        raise ValueError(f"{SCHEDULE} is {schedule!r}, expected {' or '.join(SCHEDULES)}")
    share = _share(text) if text else default
    if share is None:
        if schedule != SCHEDULES[0]:
            raise ValueError(f"{SCHEDULE} is {schedule}, but there is no share that could fall; set {SHARE} (0 to 0.5)")
        return None
    if schedule == "falling" and share > 0.5:
        raise ValueError(
            f"{SHARE} is {_number(share)} and {SCHEDULE} is falling, which begins with twice the share; expected 0 to "
            f"0.5"
        )
    return Dose(share, schedule)


def _share(text: str) -> float | None:
    if text == BY_CASES:
        return None
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise ValueError(
            f"{SHARE} is {text!r}, expected the share of synthetic patches, a number from 0 to 1, or {BY_CASES!r}, "
            f"with which every case is as likely as another"
        )
    return share


def as_variables(record: Mapping[str, float | str] | None) -> str:
    """What a checkpoint's record (``Dose.as_record``) would be as environment variables, for a message."""
    if record is None:
        return f"{SHARE}={BY_CASES}"
    return f"{SHARE}={_number(float(record['share']))} {SCHEDULE}={record['schedule']}"


def _number(share: float) -> str:
    """A share as it is read again to the same bits; short where six digits suffice."""
    short = f"{share:g}"
    return short if float(short) == share else repr(share)
