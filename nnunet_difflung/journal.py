"""The steps of a commit as its journal holds them, and which of them a journal may hold."""
from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.files import read_json
from nnunet_difflung.lock import HIDDEN
from nnunet_difflung.manifest import MANIFEST, PREPROCESSED
from nnunet_difflung.splits import SYNTHETIC_PREFIX

ORIGINALS = f"{HIDDEN}/originals"
_JSON = rf"(dataset|splits_final|{MANIFEST.removesuffix('.json')})\.json"
_TARGETS = re.compile(
    rf"{_JSON}|imagesTr|labelsTr|(imagesTr|labelsTr)/{SYNTHETIC_PREFIX}[^/]+|{re.escape(ORIGINALS)}(/[^/]+)?|"
    rf"{PREPROCESSED}({_JSON}|dataset_fingerprint\.json|[^/]+/{SYNTHETIC_PREFIX}[^/]+)?")
_UNKNOWN = "if it is not yours, compare the dataset with a copy before you delete that file"


@dataclass(frozen=True)
class Step:
    """One step of a change.

    Attributes:
        do: ``put`` (rename ``source`` to ``target``), ``delete``, ``mkdir`` or ``rmdir`` (only if empty).
        target: named as in the manifest.
        source: relative to the raw dataset folder.
        after: SHA-256 of the target after the step.
    """

    do: str
    target: str
    source: str = ""
    after: str | None = None


def read_journal(path: Path) -> tuple[dict, list[Step]]:
    """The journal and its steps, none of which touches more than a commit of ours does.

    Raises:
        BadInput: it was changed by hand, or is of somebody who wants another file moved or deleted.
    """
    try:
        journal = read_json(path)
        steps = [Step(**step) for step in journal["steps"]]
        bool(journal["clear"])
        wrong = next((step for step in steps if not _is_ours(step)), None)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(f"{path} is no journal of an interrupted change ({type(error).__name__}: {error}); {_UNKNOWN}"
                       ) from error
    if wrong:
        raise BadInput(f"{path} wants to {wrong.do} {wrong.target!r}, which no change of this package does; {_UNKNOWN}")
    return journal, steps


def _is_ours(step: Step) -> bool:
    hidden = step.source.startswith(f"{HIDDEN}/") and not {"", "."} & set(step.source.split("/"))
    return (step.do in ("put", "delete", "mkdir", "rmdir") and _TARGETS.fullmatch(step.target) is not None
            and ".." not in [*step.target.split("/"), *step.source.split("/")] and "\\" not in step.target + step.source
            and (hidden if step.do == "put" else not step.source))
