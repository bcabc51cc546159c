"""What an archive holds, as a table, and a first mapping file for a person to edit."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from nnunet_difflung.dataset_conversion.imaging.intensities import WINDOW_8BIT
from nnunet_difflung.dataset_conversion.pipeline.mapping import NORMAL
from nnunet_difflung.dataset_conversion.sources import Listing
from nnunet_difflung.errors import BadInput
from nnunet_difflung.runtime.files import write_bytes

MAPPING = "difflung_mapping.yaml"
_GUESSES = (  # label, what structures of it are often called
    (NORMAL, r"(.*[ _-])?lungs?([ _-].*)?|healthy.*"),
    ("emphysema", r".*emph?ysema.*"),
    ("ground_glass", r".*(ggo|ground.?glass).*"),
    ("consolidation", r".*consolid.*"),
    ("fibrosis", r".*fibro.*|.*honeycomb.*"),
    ("pleural_effusion", r".*effusion.*"),
    ("tumour", r"(gtv|ctv).*|.*(tumou?r|nodule|mass|lesion).*"),
)


def listing_table(kind: str, listings: Sequence[Listing]) -> str:
    """One line for each patient, its problems below it, and the structures with the number of patients."""
    lines = [
        f"{len(listings)} patients, {kind}",
        f"{'patient':<24}{'size':>16}{'spacing, mm':>20}{'values':>16}  structures",
    ]
    for listing in listings:
        size, spacing = "×".join(map(str, listing.size)), "×".join(f"{s:.3g}" for s in listing.spacing)
        values = f"{listing.intensity[0]:g}…{listing.intensity[1]:g}"
        lines.append(
            f"{listing.patient:<24}{size:>16}{spacing:>20}{values:>16}  {', '.join(listing.structures) or '–'}"
        )
        lines += [f"    problem: {problem}" for problem in listing.problems]
    counts = Counter(name for listing in listings for name in listing.structures)
    lines.append("structures: " + (", ".join(f"{name} ({n})" for name, n in sorted(counts.items())) or "none"))
    return "\n".join(lines)


def first_mapping(listings: Sequence[Listing]) -> str:
    """A mapping that covers every structure, guessed from the names; YAML with a word on each part."""
    names = sorted({name for listing in listings for name in listing.structures})
    labels: dict[str, list[str]] = {}
    for name in names:
        label = next(
            (label for label, pattern in _GUESSES if re.fullmatch(pattern, name, re.IGNORECASE)),
            re.sub(r"\W+", "_", name).strip("_").lower() or "structure",
        )
        label = label if label[0].isalpha() and label not in ("background", "ignore") else f"label_{label}"
        labels.setdefault(label, []).append(name)
    order = [label for label, _ in _GUESSES if label in labels] + [x for x in labels if x not in dict(_GUESSES)]
    window = all(listing.intensity[0] >= 0 and listing.intensity[1] <= 255 for listing in listings)
    lung = "none" if NORMAL in labels or window else "threshold"
    lines = [
        "# Structures on the right become the label on the left; labels get 1, 2, 3, … in this order, and the",
        "# later one wins where two overlap. Expressions match whole names in upper or lower case.",
        "labels:",
    ]
    if lung != "none":
        lines.append(f"  {NORMAL}: []  # nobody drew it: found by 'lung' below")
    lines += [f"  {label}: {json.dumps([_expression(name) for name in labels[label]])}" for label in order]
    lines += [
        "# Structures that become nothing:",
        "ignore_structures: []",
        "# none, threshold or lungmask: how normal lung is found in HU where nobody drew it.",
        f"lung: {lung}",
    ]
    if window:
        lines.insert(0, f"# Values 0 to 255 are not HU (channel {WINDOW_8BIT}): lungs cannot be found by threshold.")
    return "\n".join(lines) + "\n"


def _expression(name: str) -> str:
    """A regular expression for a name, without escapes that are not needed."""
    return re.sub(r"\\([ _-])", r"\1", re.escape(name))


def write_first_mapping(path: Path, listings: Sequence[Listing]) -> bool:
    """Writes the mapping unless the file is there; whether it did.

    Raises:
        BadInput: nothing is drawn in the archive, or the file cannot be written.
    """
    if path.exists():
        return False
    if not any(listing.structures for listing in listings):
        raise BadInput("no patient has a structure, so there is nothing to map; add what was drawn to the archive")
    try:
        write_bytes(path, first_mapping(listings).encode())
    except OSError as error:
        raise BadInput(f"--mapping {path} cannot be written ({error.strerror}); name another file") from error
    return True
