"""Names of the structures in a label map, as its header or a file beside it gives them.

The values of a label map often follow the order in which a reader drew, so they differ between patients, while names do
not. Headers are read in these forms:

- 3D Slicer's ``.seg.nrrd``: ``Segment0_Name``, ``Segment0_LabelValue``, ``Segment0_Layer``. Segments that overlap are
  in several layers; files of Slicer 4.10 and before have a layer for each segment and give neither value nor layer;
- MITK's multi-label NRRD: JSON in ``org.mitk.multilabel.segmentation.labelgroups``;
- NIfTI with the label table of Caret and Connectome Workbench in a header extension, as TotalSegmentator writes it.

Files beside label maps: an ITK-SNAP label description, and nnU-Net's or the Decathlon's ``dataset.json``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from nnunet_difflung.dataset_conversion.files.spelling import composed
from nnunet_difflung.errors import BadInput

_SLICER = re.compile(r"Segment(\d+)_(ID|Name|LabelValue|Layer)")
_MITK = re.compile(r"org[._]mitk[._]multilabel[._]segmentation[._]labelgroups")
_SNAP = re.compile(r'\s*(\d+)(?:\s+\d+){3}\s+[\d.]+\s+[01]\s+[01]\s+"(.*)"\s*')
_LONGEST = 1_000_000  # bytes of a label description
_LABEL_FOLDERS = ("labelsTr", "labelsTs")


@dataclass(frozen=True)
class Segment:
    """A structure in a label map: its name, its value, and the layer (component of a voxel) that holds it."""

    name: str
    value: int
    layer: int = 0


def named_in_header(metadata: Mapping[str, str], layers: int, path: Path) -> tuple[Segment, ...]:
    """The segments that the text entries of a header name, sorted by layer and value; empty if there are none.

    Raises:
        BadInput: the header contradicts itself or the file.
    """
    segments = _of_slicer(metadata, layers, path) or _of_mitk(metadata, path)
    for segment in segments:
        if not 0 <= segment.layer < layers:
            raise BadInput(
                f"{path}: segment {segment.name!r} is in layer {segment.layer}, but the file has {layers}; expected a "
                f"complete file: export it again"
            )
    return _checked(segments, path)


def _checked(segments: list[Segment], path: Path) -> tuple[Segment, ...]:
    names: dict[tuple[int, int], str] = {}
    for segment in segments:
        name = names.setdefault((segment.layer, segment.value), segment.name)
        if name != segment.name:
            raise BadInput(
                f"{path}: its header gives value {segment.value} the names {name!r} and {segment.name!r}; expected a "
                f"value for each structure: export it again"
            )
    return tuple(Segment(name, value, layer) for (layer, value), name in sorted(names.items()))


def _of_slicer(metadata: Mapping[str, str], layers: int, path: Path) -> list[Segment]:
    entries: dict[int, dict[str, str]] = {}
    for key, text in metadata.items():
        if match := _SLICER.fullmatch(key):
            entries.setdefault(int(match[1]), {})[match[2]] = text
    unplaced = [entry for entry in entries.values() if "LabelValue" not in entry and "Layer" not in entry]
    if len(unplaced) > max(1, layers):
        raise BadInput(
            f"{path}: its header names {len(entries)} segments, but not their values (Segment0_LabelValue); expected "
            f"a value for each: save the segmentation again with 3D Slicer"
        )
    segments = []
    for number, (_, entry) in enumerate(sorted(entries.items())):
        name = entry.get("Name") or entry.get("ID") or f"Segment {number + 1}"
        layer = entry.get("Layer", str(number) if layers > 1 and "LabelValue" not in entry else "0")
        segments.append(Segment(_tidy(name), _whole(entry.get("LabelValue", "1"), path), _whole(layer, path)))
    return segments


def _of_mitk(metadata: Mapping[str, str], path: Path) -> list[Segment]:
    text = next((text for key, text in metadata.items() if _MITK.fullmatch(key)), None)
    if text is None:
        return []
    try:
        groups = json.loads(text)
        return [
            Segment(_tidy(str(label["name"])), int(label["value"]), layer)
            for layer, group in enumerate(groups)
            for label in (group.get("labels") or [] if isinstance(group, dict) else group)
            if int(label["value"])
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInput(
            f"{path}: MITK's list of labels in its header cannot be read ({error}); expected JSON: export it again"
        ) from error


def named_in_extension(contents: list[bytes]) -> tuple[Segment, ...]:
    """The segments of a label table in the extensions of a NIfTI header; empty if there is none."""
    for content in contents:
        if b"<LabelTable" not in content:
            continue
        try:
            root = ElementTree.fromstring(content.strip(b"\0 \r\n\t").decode())
            labels = {int(label.get("Key", "0")): _tidy(label.text or "") for label in root.iter("Label")}
        except (ElementTree.ParseError, ValueError):
            continue
        return tuple(Segment(name, value) for value, name in sorted(labels.items()) if value and name)
    return ()


class NamesBeside:
    """What files beside the label maps of an archive say about their values; each file is read once."""

    def __init__(self, folder: Path) -> None:
        """Takes the folder of the archive; nothing above it is read."""
        self._folder = folder
        self._descriptions: dict[Path, dict[str, dict[int, str]]] = {}
        self._datasets: dict[Path, dict[int, str]] = {}

    def of(self, path: str, alone: bool) -> tuple[dict[int, str], str]:
        """Value → name for a label map, and what says it; empty if nothing does.

        It is searched in the folder of the label map and in those above it: a label description of the label map's own
        name, the only label description of a folder, or the ``dataset.json`` beside ``labelsTr``.

        Args:
            path: of the label map, relative to the archive.
            alone: whether the archive has one label map for each image; else only a description of its own name is
                sure to be of this label map.
        """
        file = self._folder / path
        parents = [file.parent, *file.parent.parents]
        for place in parents[: parents.index(self._folder) + 1]:
            described = self._described(place)
            own = described.get(file.name.partition(".")[0])
            if own is None and alone and len(described) == 1:
                own = next(iter(described.values()))
            if own is not None:
                return own, "a label description"
            if place.name in _LABEL_FOLDERS and place != self._folder and (names := self._dataset(place.parent)):
                return names, "dataset.json"
        return {}, ""

    def _described(self, folder: Path) -> dict[str, dict[int, str]]:
        """ITK-SNAP label descriptions in a folder: name without its ending → names of values."""
        if folder not in self._descriptions:
            files = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in (".txt", ".label")]
            read = {file: _label_description(file) for file in files}
            self._descriptions[folder] = {file.name.partition(".")[0]: names for file, names in read.items() if names}
        return self._descriptions[folder]

    def _dataset(self, folder: Path) -> dict[int, str]:
        if folder not in self._datasets:
            self._datasets[folder] = _of_dataset_json(folder / "dataset.json")
        return self._datasets[folder]


def _label_description(file: Path) -> dict[int, str]:
    """Names of values in an ITK-SNAP label description; empty if the file is none."""
    if not file.is_file() or file.stat().st_size > _LONGEST:
        return {}
    lines = file.read_bytes().decode("utf-8-sig", "replace").splitlines()
    rows = [_SNAP.fullmatch(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not all(rows):
        return {}
    return {int(row[1]): _tidy(row[2]) for row in rows if row is not None and int(row[1])}


def _of_dataset_json(path: Path) -> dict[int, str]:
    """Names of values in a ``dataset.json`` of nnU-Net or the Decathlon; empty if there are none, or regions."""
    try:
        labels = json.loads(path.read_text(encoding="utf-8-sig"))["labels"]
        if all(isinstance(value, int) for value in labels.values()):
            return {value: _tidy(name) for name, value in labels.items() if value}
        return {int(value): _tidy(name) for value, name in labels.items() if int(value)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _whole(text: str, path: Path) -> int:
    try:
        return int(text)
    except ValueError:
        raise BadInput(
            f"{path}: its header gives a segment the value or layer {text!r}; expected a whole number: save the "
            f"segmentation again"
        ) from None


def _tidy(name: str) -> str:
    """A name on one line, with its letters composed."""
    return " ".join(composed(name).split())
