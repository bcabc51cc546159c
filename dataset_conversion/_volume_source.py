"""Archives of NIfTI, NRRD or MetaImage volumes with label maps."""
from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.dataset_conversion._archive import (
    ArchiveOptions,
    compiled,
    files_below,
    given_roles,
    look_at,
    structure_names,
)
from nnunet_difflung.dataset_conversion._file_facts import VOLUMES, Facts, read_volume
from nnunet_difflung.dataset_conversion._file_pairs import Pair, natural, pair_files
from nnunet_difflung.dataset_conversion.sources import Listing, Scan


@dataclass(frozen=True)
class MaskFile:
    """A label map, and the structure that each of its values above 0 stands for.

    Attributes:
        path: below the archive's folder.
        names: value and name, also of values that this file does not hold.
        facts: of the file.
    """

    path: str
    names: tuple[tuple[int, str], ...]
    facts: Facts

    def structures(self) -> tuple[str, ...]:
        """Names of what this file holds."""
        return tuple(name for value, name in self.names if value in (self.facts.values or ()))

    def problem(self, folder: Path) -> str:
        """Why this cannot be used as a label map, or ""."""
        if self.facts.problem or self.facts.values is not None:
            return self.facts.problem
        return (f"{folder / self.path}: values from {self.facts.low:g} to {self.facts.high:g}, not a few whole ones; "
                f"expected labels; name images and label maps with --image and --masks")


@dataclass(frozen=True)
class VolumeSource:
    """A patient's image and label maps; see ``sources.Source``."""

    patient: str
    folder: Path
    image: str
    masks: tuple[MaskFile, ...]
    facts: Facts

    def listing(self) -> Listing:
        """From what was read when the archive was looked through."""
        problems = [self.facts.problem, *(mask.problem(self.folder) for mask in self.masks)]
        structures = {name for mask in self.masks for name in mask.structures()}
        if not any(problems) and not structures:
            problems.append(self._nothing_drawn())
        return Listing(self.patient, (self.image, *(mask.path for mask in self.masks)), self.facts.size,
                       self.facts.spacing, "", (self.facts.low, self.facts.high), tuple(sorted(structures)),
                       tuple(p for p in problems if p))

    def _nothing_drawn(self) -> str:
        if not self.masks:
            return (f"{self.folder / self.image}: no label map belongs to this image; add it, take the image out, or "
                    f"say with --image and --masks which files are what")
        return (f"{self.folder / self.masks[0].path}: an empty mask, and nothing else is drawn for {self.patient!r}; "
                f"add what was drawn or take the patient out")

    def load(self) -> Scan:
        """Image and one mask for each structure, each in its own place."""
        problems = self.listing().problems
        if problems:
            raise BadInput(problems[0])
        notes = tuple(f"{mask.path} is empty" for mask in self.masks if not mask.structures())
        places = {name: (self.folder / mask.path, value) for mask in self.masks for value, name in mask.names
                  if value in mask.facts.values}
        return Scan(read_volume(self.folder / self.image), LazyStructures(places), notes=notes)


class LazyStructures(dict):
    """Structures that are read when asked for: a hundred organs at once would not fit into memory."""

    def __init__(self, places: dict[str, tuple[Path, int]]) -> None:
        """Takes file and value of each structure."""
        super().__init__(places)
        self._last: tuple[Path, sitk.Image] | None = None

    def __getitem__(self, name: str) -> sitk.Image:
        path, value = super().__getitem__(name)
        if self._last is None or self._last[0] != path:
            self._last = path, read_volume(path)
        array = np.rint(sitk.GetArrayViewFromImage(self._last[1])) == value
        result = sitk.GetImageFromArray(array.astype(np.uint8))
        result.CopyInformation(self._last[1])
        return result


def find_sources(folder: Path, options: ArchiveOptions, processes: int = 1) -> list[VolumeSource]:
    """One source for each image; every file is read once, several at a time.

    Raises:
        BadInput: no image, a label map without image, or options that fit nothing.
    """
    paths = files_below(folder, VOLUMES)
    if not paths:
        raise BadInput(f"{folder}: no volume ({', '.join(VOLUMES)}) found; unpack the archive or correct --kind")
    roles = given_roles(paths, options)
    found = look_at(folder, paths if roles is None else list(roles), processes)
    if roles is None:
        roles = roles_by_content(found)
    pairs = paired(folder, roles)
    names = structure_names(*values_of(pairs, found))
    patients = _patients(pairs, options.patient_pattern)
    sources = [VolumeSource(patient, folder, pair.image, mask_files(pair, names, found), found[pair.image])
               for patient, pair in zip(patients, pairs, strict=True)]
    return sorted(sources, key=lambda s: (natural(s.patient), natural(s.image)))


def roles_by_content(found: dict[str, Facts]) -> dict[str, bool]:
    """Path → whether it is a label map, by what the files hold; unreadable ones go with their neighbours."""
    roles = {path: facts.label_map for path, facts in found.items() if not facts.problem}
    for path in found:
        if path not in roles:
            roles[path] = _like_neighbours(path, roles)
    return roles


def _like_neighbours(path: str, roles: dict[str, bool]) -> bool:
    """Role of an unreadable file, by the readable ones of its name in sibling folders and those of its own folder.

    In parallel folders its folder tells, in a folder for each patient its name; where both tell and disagree there
    would be no image for its label maps, so it is that. Where they do not tell, the words in its path do.
    """
    at = Path(path)
    groups = [{r for p, r in roles.items() if Path(p).name == at.name and Path(p).parent.parent == at.parent.parent
               and Path(p).parent != at.parent}, {r for p, r in roles.items() if Path(p).parent == at.parent}]
    clear = [next(iter(group)) for group in groups if len(group) == 1]
    if clear and all(groups):
        return all(clear)
    return bool(re.search(r"mask|msk|seg|label|lesion|infection|roi|lung", path, re.IGNORECASE))


def paired(folder: Path, roles: dict[str, bool]) -> list[Pair]:
    """Images with their label maps.

    Raises:
        BadInput: no image, or a label map without one.
    """
    images, masks = ([path for path, mask in roles.items() if mask == wanted] for wanted in (False, True))
    if not images:
        raise BadInput(f"{folder}: all {len(masks)} files look like label maps, such as {masks[0]}; expected an image "
                       f"for each patient; name the images with --image REGEX")
    pairs, orphans = pair_files(images, masks, folder.resolve().name)
    if orphans:
        raise BadInput(f"{folder / orphans[0]}: no image belongs to this label map ({len(orphans)} such files); "
                       f"expected the image's name in it or one image in its folder; rename it, or say with --image "
                       f"and --masks which files are what")
    return pairs


def values_of(pairs: list[Pair], found: dict[str, Facts]) -> tuple[dict[str, set[int]], set[str]]:
    """Label map → its values above 0 in the whole archive, and the label maps whose values are colours."""
    values: dict[str, set[int]] = {}
    colours = set()
    for key, path in (mask for pair in pairs for mask in pair.masks):
        values.setdefault(key, set()).update(v for v in found[path].values or () if v)
        if found[path].colour:
            colours.add(key)
    return values, colours


def mask_files(pair: Pair, names: dict[str, dict[int, str]], found: dict[str, Facts]) -> tuple[MaskFile, ...]:
    """The label maps of one image."""
    return tuple(MaskFile(path, tuple(names[key].items()), found[path]) for key, path in pair.masks)


def _patients(pairs: list[Pair], pattern: str | None) -> list[str]:
    """The patient of each image: by the pattern, else the last part of its name where that is nobody else's."""
    if pattern is not None:
        return [patient_by(pattern, pair.name) for pair in pairs]
    last = [pair.name.rpartition("/")[2] for pair in pairs]
    return last if len(set(last)) == len(last) else [pair.name for pair in pairs]


def patient_by(pattern: str, name: str) -> str:
    """First group, or all, of the match of a whole name.

    Raises:
        BadInput: no match.
    """
    match = compiled("--patient-pattern", pattern).fullmatch(name)
    if not match:
        raise BadInput(f"--patient-pattern {pattern!r} does not match the name {name!r}; it has to match every whole "
                       f"name that --list shows, with the patient as its first group, such as '(.+)_[0-9]+'")
    return (match[1] if match.groups() else match[0]) or name
