"""Lists the content of an archive as a table, and writes a first mapping file for the user to edit."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from nnunet_difflung.dataset_conversion.case import IGNORE
from nnunet_difflung.dataset_conversion.pipeline.mapping import LABEL, MARK, NORMAL
from nnunet_difflung.dataset_conversion.sources import Listing
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.intensities import WINDOW_8BIT
from nnunet_difflung.meaning.label_names import Meaning, meaning_of
from nnunet_difflung.runtime.files import write_bytes

MAPPING = "difflung_mapping.yaml"
LONGEST = 60  # characters of the name of a label
_GUESSES = (  # label, and how structures of it are often named
    (NORMAL, r"(.*[ _-])?lungs?([ _-].*)?|healthy.*"),  # what no other fits
    ("emphysema", r".*emph?ysema.*"),
    ("ground_glass", r".*(ggo|ground.?glass).*"),
    ("consolidation", r".*consolid.*"),
    ("fibrosis", r".*fibro.*|.*honeycomb.*"),
    ("pleural_effusion", r".*effusion.*"),
    ("tumour", r"(gtv|ctv).*|.*(tumou?r|nodule|mass|lesion|cancer|carcinoma).*"),
)


def listing_table(title: str, listings: Sequence[Listing]) -> str:
    """A table with a line for each scan, its problems below, and for each structure the number of scans."""
    lines = [
        title,
        f"{'patient':<24}{'size':>16}{'spacing, mm':>20}{'values':>16}  structures",
    ]
    for listing in listings:
        size, spacing = "×".join(map(str, listing.size)), "×".join(f"{size:.3g}" for size in listing.spacing)
        values = f"{listing.intensity[0]:g}…{listing.intensity[1]:g}"
        if not all(listing.size):  # a patient that cannot be read
            size = spacing = values = "–"
        lines.append(
            f"{listing.patient:<24}{size:>16}{spacing:>20}{values:>16}  {', '.join(listing.structures) or '–'}"
        )
        lines += [f"    problem: {problem}" for problem in listing.problems]
    counts = Counter(name for listing in listings for name in listing.structures)
    lines.append("structures: " + (", ".join(f"{name} ({n})" for name, n in sorted(counts.items())) or "none"))
    return "\n".join(lines)


def first_mapping(listings: Sequence[Listing]) -> str:
    """A mapping of all structures, guessed from their names, as YAML with comments."""
    names = sorted({name for listing in listings for name in listing.structures})
    unknown = [name for name in names if _not_looked_at(name)]
    labels: dict[str, list[str]] = {}
    for name in names:
        if name not in unknown:
            labels.setdefault(_label_of(name, labels), []).append(name)
    order = [label for label, _ in _GUESSES if label in labels] + [
        label for label in labels if label not in dict(_GUESSES)
    ]
    window = all(listing.intensity[0] >= 0 and listing.intensity[1] <= 255 for listing in listings)
    lung = "none" if NORMAL in labels or window else "threshold"
    lines = [
        "# The structures on the right become the label on the left. Labels get the values 1, 2, 3, … in this order;",
        "# where two overlap, the later label wins. Regular expressions match whole names, in upper or lower case.",
        "labels:",
    ]
    if lung != "none":
        lines.append(f"  {NORMAL}: []  # not drawn; it is found in the image as 'lung' below says")
    lines += [f"  {_scalar(label)}: {_expressions(labels[label])}" for label in order]
    if unknown:
        lines += ["# What is there is not known:", f"ignore_label: {_expressions(unknown)}"]
    lines += [
        "# Structures that become no label:",
        "ignore_structures: []",
        "# How normal lung is found in images in HU where it was not drawn: none, threshold or lungmask.",
        f"lung: {lung}",
    ]
    if window:
        lines.insert(
            0, f"# Values from 0 to 255 are not HU (channel {WINDOW_8BIT}), so lungs cannot be found by thresholds."
        )
    return "\n".join(lines) + "\n"


def _not_looked_at(name: str) -> bool:
    return name.casefold() == IGNORE or bool(MARK.fullmatch(name))


def _label_of(name: str, labels: Mapping[str, Sequence[str]]) -> str:
    """The label of a structure, guessed from its name; that of an earlier name if they differ in case only."""
    for label, names in labels.items():
        if any(re.fullmatch(re.escape(other), name, re.IGNORECASE) for other in names):
            return label
    for label, pattern in (*_GUESSES[1:], _GUESSES[0]):
        if re.fullmatch(pattern, name, re.IGNORECASE):
            if label == NORMAL and meaning_of(name) in (Meaning.DISEASE, Meaning.STRUCTURE, Meaning.UNSURE):
                continue
            return label
    label = re.sub(r"\W+", "_", name.lower()).strip("_") or "structure"
    if not LABEL.fullmatch(label) or label in ("background", IGNORE):
        label = f"label_{label}"
    return label if len(label) <= LONGEST else f"{label[:LONGEST]}_{len(labels) + 1}"


def _expressions(names: Sequence[str]) -> str:
    """A list of regular expressions that match the names, as YAML."""
    readable = [re.sub(r"\\([ _-])", r"\1", re.escape(name)) for name in names]
    return f"[{', '.join(_scalar(expression, quoted=True) for expression in readable)}]"


def _scalar(text: str, quoted: bool = False) -> str:
    """A string as YAML; in quotes, or only where it would be read as something else, such as yes, null or 1e3."""
    style = '"' if quoted else None
    return (
        yaml.safe_dump(text, default_style=style, allow_unicode=True, width=sys.maxsize).removesuffix("...\n").strip()
    )


def write_first_mapping(path: Path, listings: Sequence[Listing]) -> bool:
    """Writes a first mapping unless the file exists, and returns whether it was written.

    Raises:
        BadInput: the archive has no structures, or the file cannot be written.
    """
    if path.exists():
        return False
    if not any(listing.structures for listing in listings):
        raise BadInput(
            "no patient has a structure, so there is nothing to map; add the files with the structures to the archive"
        )
    try:
        write_bytes(path, first_mapping(listings).encode())
    except OSError as error:
        raise BadInput(f"--mapping {path} cannot be written ({error.strerror}); give another path") from error
    return True
