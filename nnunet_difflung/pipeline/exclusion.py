"""The synthetic cases that a reader has refused (``--exclude``)."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable
from pathlib import Path

from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.manifest import is_identifier
from nnunet_difflung.injection.run_settings import part_of_id
from nnunet_difflung.runtime.wording import counted

_COLUMN = "case"


def read_excluded(path: Path, method: str) -> tuple[str, ...]:
    """The ids in a CSV file with a column ``case``, as the report saves it; sorted, each once.

    Cases of other methods are left out, since one reader's list may name cases of several.

    Args:
        path: of the file.
        method: name of the method that is run.

    Raises:
        BadInput: the file cannot be read, has no such column, or names something else than a synthetic case.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
            columns = list(rows[0]) if rows else [_COLUMN]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(
            f"--exclude {path} cannot be read ({reason}); give the CSV file that the report saves"
        ) from error
    if _COLUMN not in columns:
        raise BadInput(f"--exclude {path} has the columns {columns}; expected one called '{_COLUMN}'")
    names = {(row[_COLUMN] or "").strip() for row in rows} - {""}
    for name in sorted(names):
        if not is_identifier(name) or not part_of_id(name, "method"):
            raise BadInput(
                f"--exclude {path} names {name!r}, which is not the id of a synthetic case (difflung_…); take the ids "
                f"from the report"
            )
    return tuple(sorted(name for name in names if part_of_id(name, "method") == method))


def unknown(excluded: Iterable[str], folds: Collection[int | str], dropped: Collection[str]) -> list[str]:
    """A line if ids name no planned case of the folds, so that they excluded nothing; else none.

    Args:
        excluded: ids.
        folds: that were run.
        dropped: ids of the cases that these folds dropped, for whatever reason.
    """
    of_folds = [name for name in excluded if part_of_id(name, "fold") in set(map(str, folds))]
    missing = [name for name in of_folds if name not in dropped]
    if not missing:
        return []
    return [
        f"Warning: --exclude names {counted(len(missing), 'case')} that these folds do not have, such as {missing[0]}: "
        f"with other settings, generators or data the cases have other ids; look at the new report"
    ]
