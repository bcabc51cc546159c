"""The rows of the bench: what they are called, in which order they are made, which may not stand in one table."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.bench.arms import DECISIVE
from nnunet_difflung.errors import BadInput
from nnunet_difflung.methods import METHODS
from nnunet_difflung.runtime.files import read_json, write_bytes, write_json

FORMAT = 1
_PACKED = ".json.gz"
NUMBERS = ("16", "8", "4", "all")  # source patients with the rare class
REPORTED_FOLDS, REPORTED_SEEDS = (0, 1, 2, 3), (1, 2, 3)
_RENAMED = {  # (trainer, method) → the name of that trainer since difflung is the default method
    ("nnUNetTrainerDiffLungContext", "difflung"): METHODS["difflung"].trainer,
    ("nnUNetTrainerDiffLung", "cbmat"): METHODS["cbmat"].trainer,
}
TUNING_FOLD, TUNING_SEEDS = 4, tuple(range(91, 100))


@dataclass(frozen=True)
class Row:
    """One training and what it is scored on.

    Attributes:
        arm: key of ``arms.ARMS``.
        number: source patients with the rare class, or ``all``.
        seed: of the choice of patients, of painting and of training.
        fold: of the dataset, in which the validation patients are those of all numbers.
        iterations: of the training.
    """

    arm: str
    number: str
    seed: int
    fold: int
    iterations: int

    @property
    def name(self) -> str:
        """Name of the row's file and log."""
        return f"{self.arm}_n{self.number}_seed{self.seed}_fold{self.fold}_{self.iterations}its"

    @property
    def tuning(self) -> bool:
        """Whether the row may be used to choose settings, and so must not be reported."""
        return self.fold == TUNING_FOLD


def check_purpose(folds: Iterable[int], seeds: Iterable[int], tuning: bool) -> None:
    """Refuses folds and seeds that would let settings be chosen on patients that a table reports.

    Raises:
        BadInput: names the fold or the seed.
    """
    allowed_folds, allowed_seeds = ((TUNING_FOLD,), TUNING_SEEDS) if tuning else (REPORTED_FOLDS, REPORTED_SEEDS)
    purpose, other = ("--tuning", "report: leave --tuning out") if tuning else ("reporting", "tune: add --tuning")
    for what, given, allowed in (("-f", folds, allowed_folds), ("--seeds", seeds, allowed_seeds)):
        wrong = sorted(set(given) - set(allowed))
        if wrong:
            raise BadInput(
                f"{what} {wrong[0]} is not for {purpose}, expected some of {', '.join(map(str, allowed))}, since "
                f"settings must not be chosen on patients that a table reports; to {other}"
            )


def in_order(
    arms: Sequence[str], numbers: Sequence[str], seeds: Sequence[int], folds: Sequence[int], iterations: int
) -> list[Row]:
    """All rows, the decisive ones first: few source patients, and the arms that the claim rests on.

    The arms of a (seed, fold, number) follow each other, since they are compared with each other.
    """
    few = [n for n in numbers if n != "all"]
    first = [arm for arm in DECISIVE if arm in arms]
    rest = [arm for arm in arms if arm not in first]
    tiers = ((few, first), (few, rest), ([n for n in numbers if n == "all"], [*first, *rest]))
    return [
        Row(arm, number, seed, fold, iterations)
        for tier_numbers, tier_arms in tiers
        for seed in seeds
        for fold in folds
        for number in tier_numbers
        for arm in tier_arms
    ]


def as_named_now(settings: dict) -> dict:
    """A row's settings with the present name of the trainer; two were renamed, and train as they did."""
    trainer, method = settings.get("trainer"), settings.get("method")
    return {**settings, "trainer": _RENAMED.get((trainer, method), trainer)}


def first_difference(before: dict, settings: dict) -> str:
    """The first setting, by name, in which two rows differ; empty if there is none."""
    return min((key for key in {*before, *settings} if before.get(key) != settings.get(key)), default="")


def code_of(row: dict) -> str:
    """The code that made a row: its commits, or where it has none, the version of the package."""
    return ", ".join(row.get("commits") or [row.get("versions", {}).get("nnunet_difflung", "unknown")])


def different_code(rows: Iterable[dict]) -> str:
    """A line that names the arms of which not all rows were made by the same code; empty if there are none."""
    arms: dict[str, dict[str, int]] = {}
    for row in rows:
        of_arm = arms.setdefault(row["row"]["arm"], {})
        of_arm[code_of(row)] = of_arm.get(code_of(row), 0) + 1
    mixed = [
        f"{arm} ({'; '.join(f'{number} by {code}' for code, number in of.items())})"
        for arm, of in arms.items()
        if len(of) > 1
    ]
    return f"Not all rows of an arm were made by the same code: {', '.join(mixed)}." if mixed else ""


class Store:
    """The finished rows of a bench, one JSON file each; a file exists if and only if its row is complete.

    Args:
        folder: of the bench; rows for tuning lie in another folder of it than those to report.
        tuning: which rows.
        kept: folder of rows that are kept with the results, packed, so that a bench goes on on another machine; they
            are read beside those of the bench. None: there are none.
    """

    def __init__(self, folder: Path, tuning: bool = False, kept: Path | None = None) -> None:
        self.folder, self.tuning, self.kept = folder / ("tuning_rows" if tuning else "rows"), tuning, kept

    def path(self, row: Row) -> Path:
        """The file of a row."""
        return self.folder / f"{row.name}.json"

    def holds(self, row: Row, settings: dict) -> bool:
        """Whether a row is complete.

        Args:
            row: the row.
            settings: all that decides about it beside its name.

        Raises:
            BadInput: the row was made with other settings.
        """
        path = next((path for path in (self.path(row), self._kept(row.name)) if path and path.is_file()), None)
        if path is None:
            return False
        before = as_named_now(_content(path)["settings"])
        if key := first_difference(before, settings):
            other = "another -o" if path.parent == self.folder else "--rows with another folder"
            raise BadInput(
                f"{path} was made with {key} {before.get(key)!r}, now it is {settings.get(key)!r}; use {other}, or "
                f"delete the file to make the row again"
            )
        return True

    def add(self, row: Row, content: dict) -> None:
        """Writes a complete row, whole or not at all."""
        if row.tuning != self.tuning:
            raise ValueError(f"{row.name} does not belong in {self.folder}")
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.path(row), {"format": FORMAT, "row": asdict(row), "tuning": self.tuning, **content})

    def read(self) -> list[dict]:
        """All complete rows, by name.

        Raises:
            BadInput: a row was made for tuning and lies among those to report, or the other way round.
        """
        contents, own = [], {path.stem: path for path in self.folder.glob("*.json")}
        kept = {path.name.removesuffix(_PACKED): path for path in self.kept.glob(f"*{_PACKED}")} if self.kept else {}
        for _, path in sorted((kept | own).items()):
            content = _content(path)
            row = Row(**content["row"])
            if {content["tuning"], row.tuning, row.seed in TUNING_SEEDS} != {self.tuning}:
                here, there = ("tuning", "reporting")[:: 1 if self.tuning else -1]
                raise BadInput(f"{path} is a row for {there} among those for {here}; move it away")
            contents.append(content)
        return contents

    def keep(self, rows: Iterable[dict], replace: bool = False) -> None:
        """Packs rows into the folder of those that are kept; the same row gives the same bytes.

        Args:
            rows: as read.
            replace: whether another row of the same name gives way.

        Raises:
            BadInput: another row of the same name is kept; nothing is written.
        """
        if self.kept is None:
            return
        new = {self.kept / f"{Row(**content['row']).name}{_PACKED}": content for content in rows}
        known = {path: _content(path) for path in new if path.is_file()}
        for path, before in known.items():
            if before != new[path] and not replace:
                raise BadInput(
                    f"{path} is another row of this name, made {before.get('date')} by {code_of(before)}, than the one "
                    f"in {self.folder}, made {new[path].get('date')} by {code_of(new[path])}; move one of them away, "
                    f"or add --replace to keep the newly made one alone"
                )
        self.kept.mkdir(parents=True, exist_ok=True)
        for path, content in new.items():
            if content != known.get(path):
                write_bytes(path, gzip.compress(json.dumps(content, separators=(",", ":")).encode(), mtime=0))

    def _kept(self, name: str) -> Path | None:
        return self.kept / f"{name}{_PACKED}" if self.kept else None


def _content(path: Path) -> dict:
    """A row's file, packed or not."""
    return json.loads(gzip.decompress(path.read_bytes())) if path.name.endswith(_PACKED) else read_json(path)
