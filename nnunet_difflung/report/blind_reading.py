"""A blind reading: real and painted lesions in random order, the key to them, and the score of a reader's answers.

For each painted lesion a real one of the same class and of about the same area is shown, so that size does not give it
away, and never one from a case that a shown painted lesion, of whatever class, was painted into. The outline of a
painted lesion is that of a real one, turned and scaled: real lesions of the patients whom these come from are shown
only if there are not enough others.
"""

from __future__ import annotations

import csv
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_difflung.config import CT_WINDOW
from nnunet_difflung.dataset.cache import read_cache
from nnunet_difflung.dataset.raw_dataset import RawDataset
from nnunet_difflung.dataset.reading import condition_map, judged_channels
from nnunet_difflung.errors import BadInput
from nnunet_difflung.generator.encoding import denormalise, intensity_windows, isolate, normalise
from nnunet_difflung.injection.leaks import origins
from nnunet_difflung.pages.blocks import Gallery, Page, Picture, Section, Text
from nnunet_difflung.paths import cache_folder
from nnunet_difflung.report.injected import (
    InjectedCase,
    Scan,
    cases_of,
    in_hu,
    painted_channel,
    painted_window,
    read_injected,
    read_scan,
)
from nnunet_difflung.report.lesion_pictures import (
    Looks,
    lesion_picture,
    nearest_in_area,
    windows_of,
)
from nnunet_difflung.runtime.cuts import largest_part
from nnunet_difflung.runtime.figures import Window
from nnunet_difflung.runtime.files import read_json
from nnunet_difflung.runtime.parallel import bar

FORMAT = 2  # 1: pictures without a token
ANSWERS = ("surely real", "rather real", "rather painted", "surely painted")
_COLUMNS = ("picture", "answer")
_LETTERS = "bcdfghjkmnpqrstvwxz"  # no word, and nothing that a spreadsheet takes for a number or a date
_LEAST = 4  # voxels of a lesion in its largest slice; smaller ones show nothing
_TRIED = 4  # real lesions that are looked at for each one that is shown
_INTO_SCAN = "one that a computer has painted into a real scan, in random order."
_WHOLE = (
    "one in a slice that a computer has painted as a whole, in random order. In all pictures everything outside the "
    "body was set to one value."
)
_TEXT = (
    "Half of these {number} pictures show a real lesion, the other half {painted} Say of each which you think it is. "
    "The lesion is in the middle of its picture, unless the scan ends there: C shows its outline, W changes the "
    "window, a click enlarges. Then save the answers and send them to whoever has the key. You can stop at any "
    "picture: those without an answer do not count."
)


@dataclass(frozen=True)
class _Look:
    """How the lesions of a reading are shown.

    Attributes:
        raw: the dataset.
        looks: windows, classes, channel.
        isolated: None; or the intensities to which all pictures are clipped, everything outside the body being set to
            the lower end, since so are slices that are painted as a whole (``--paint full``).
    """

    raw: RawDataset
    looks: Looks
    isolated: Window | None = None

    def of(self, scan: Scan) -> Scan:
        """A case as it is shown: a synthetic one without what was there before."""
        before, label = (scan.before, scan.label_before) if isinstance(scan, InjectedCase) else (scan.image, scan.label)
        plain = Scan(scan.identifier, scan.image, scan.label, scan.spacing, scan.view)
        if self.isolated is None:
            return plain
        judged = judged_channels(self.raw.channels, self.raw.roles, before, label)
        condition = np.where(scan.label > 0, scan.label, condition_map(before, label, self.raw.roles, judged))
        channel = self.looks.channel
        normal = normalise(scan.image[channel][None], [self.isolated])
        image = scan.image.astype(np.float32)
        image[channel] = denormalise(isolate(normal, condition), [self.isolated])[0]
        return replace(plain, image=image)


@dataclass(frozen=True)
class Shown:
    """A lesion of the reading.

    Attributes:
        picture: as the reader sees it.
        painted: whether it was painted.
        name: of its class.
        case: id of its case.
        patient: whom the slice shows; of a painted lesion, the host.
        area: mm² of the lesion in the slice that is shown.
    """

    picture: Picture
    painted: bool
    name: str
    case: str
    patient: str
    area: float


def make_reading(
    raw: RawDataset, manifest: Mapping[str, Any], method: str, number: int, seed: int, progress: bool = False
) -> list[Shown]:
    """Chooses painted and real lesions, in the order in which they are shown.

    Args:
        raw: the dataset.
        manifest: of its synthetic cases.
        method: whose cases are shown.
        number: of painted lesions, and of real ones; fewer if there are not as many.
        seed: of choice and order.
        progress: show a progress bar.

    Raises:
        BadInput: there is no painted lesion to show, or no real one beside it.
    """
    names = [name for name in raw.roles.pathologies if cases_of(manifest, method, name)]
    if not names:
        raise BadInput(
            f"{raw.name} holds no synthetic case of {method} with a new lesion; run difflung_augment first, or name "
            f"another --method"
        )
    rng = np.random.default_rng(seed)
    look = _look(raw, manifest, method)
    names.sort(key=lambda name: len(cases_of(manifest, method, name)))  # what a rare class lacks, others make up for
    painted: dict[str, list[Shown]] = {}
    hosts: Counter[str] = Counter()
    made_from: Counter[str] = Counter()
    for position, name in enumerate(bar(names, visible=progress, desc="painted lesions", unit="class", delay=2)):
        wanted = (number - sum(map(len, painted.values()))) // (len(names) - position)
        new = max(1, (len(raw.cases) // 2 - len(hosts)) // (len(names) - position))
        painted[name] = _painted(raw, manifest, method, name, wanted, look, rng, hosts, made_from, new)
    shown: list[Shown] = []
    for name in bar(names, visible=progress, desc="real lesions", unit="class", delay=2):
        shown += _matched(painted[name], _real(raw, hosts, made_from, name, len(painted[name]), look, rng))
    if not shown and any(painted.values()):
        raise BadInput(
            f"{raw.name}: no real lesion that is large enough lies in another case than those that lesions of {method} "
            f"were painted into, so nothing can be shown beside these; a dataset of more cases is needed"
        )
    if not shown:
        raise BadInput(f"{raw.name}: no painted lesion of {method} is large enough to be shown beside a real one")
    return [shown[i] for i in rng.permutation(len(shown))]


def new_token() -> str:
    """What the pictures of one reading are called by; not from the seed, so that no other reading has it."""
    return "".join(secrets.choice(_LETTERS) for _ in range(6))


def painted_whole(manifest: Mapping[str, Any], method: str) -> bool:
    """Whether a method's cases, or some of them, are slices that were painted as a whole (``--paint full``)."""
    return any(case["method"] == method and case.get("paint") == "full" for case in manifest["cases"].values())


def page_of(shown: Sequence[Shown], title: str, token: str, whole: bool = False) -> Page:
    """The page for the reader; nothing on it says which lesions are painted.

    Args:
        shown: the lesions, in order.
        title: of the page.
        token: of the reading (``new_token``), by which the saved answers are known as answers to it.
        whole: the painted slices were painted as a whole (``painted_whole``).
    """
    pictures = [
        Picture(
            f"{n}: {lesion.name}",
            lesion.picture.views,
            lesion.picture.width,
            lesion.picture.height,
            lesion.picture.aspect,
            lesion.picture.outlines,
            lesion.picture.millimetres,
            lesion.picture.sides,
            _identifier(token, n),
        )
        for n, lesion in enumerate(shown, 1)
    ]
    text = Text(_TEXT.format(number=len(shown), painted=_WHOLE if whole else _INTO_SCAN))
    section = Section("Real or painted?", [text, Gallery("Lesions", [("", pictures)])])
    return Page(title, f"{len(shown)} pictures", [section], answers=ANSWERS, outlined=False)


def _identifier(token: str, number: int) -> str:
    return f"{token}-{number}"


def key_of(shown: Sequence[Shown], dataset: str, method: str, seed: int, token: str) -> dict:
    """JSON content of the key; patients are numbers, since a score needs only which pictures show the same one."""
    numbers = {patient: n for n, patient in enumerate(dict.fromkeys(lesion.patient for lesion in shown), 1)}
    return {
        "format": FORMAT,
        "dataset": dataset,
        "method": method,
        "seed": seed,
        "pictures": {
            _identifier(token, n): {
                "painted": lesion.painted,
                "class": lesion.name,
                "case": lesion.case,
                "patient": numbers[lesion.patient],
                "area_mm2": lesion.area,
            }
            for n, lesion in enumerate(shown, 1)
        },
    }


def read_key(path: Path) -> dict[str, dict]:
    """Picture → its entry in the key.

    Raises:
        BadInput: it is no key, or of a newer version.
    """
    try:
        content = read_json(path)
        if content["format"] > FORMAT:
            raise BadInput(f"{path} was written by a newer version; update nnunet_difflung")
        pictures = content["pictures"]
        if not all({"painted", "class"} <= set(row) for row in pictures.values()):
            raise KeyError("painted")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{path} is not the key of a blind reading ({error}); give key.json") from error
    return pictures


def read_answers(path: Path, key: Mapping[str, dict]) -> dict[str, int]:
    """Picture → 0 (surely real) to 3 (surely painted), of the pictures with an answer.

    Raises:
        BadInput: the file is not what the page saves, or belongs to another reading.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{path} cannot be read ({reason}); give the CSV file that the page saves") from error
    if not set(_COLUMNS) <= set(columns):
        raise BadInput(
            f"{path} has the columns {list(columns)}; expected {' and '.join(_COLUMNS)}, with commas between"
        )
    answers = {}
    for row in rows:
        picture, answer = (str(row.get(column) or "").strip() for column in _COLUMNS)
        if picture not in key:
            raise BadInput(
                f"{path} has an answer for picture {picture!r}, which the key does not have: it belongs to another "
                f"reading; give with -o the folder of the key that was made along with the page"
            )
        if picture in answers:
            raise BadInput(f"{path} has two answers for picture {picture}; remove one")
        if answer and answer not in ANSWERS:
            raise BadInput(f"{path}, picture {picture}: {answer!r} is none of {', '.join(ANSWERS)}")
        if answer:
            answers[picture] = ANSWERS.index(answer)
    if not answers:
        raise BadInput(f"{path} has no answers")
    return answers


def score(answers: Mapping[str, int], key: Mapping[str, dict]) -> dict[str, dict]:
    """How well a reader told painted from real lesions: of all pictures, and of each class if there are several.

    Returns:
        class, or ``all`` → ``pictures``, ``patients`` (None with the key of an earlier version, which does not say who
        they are), ``correct``, ``accuracy`` with its 95 % interval ``low`` and ``high`` (``_interval``), ``auc`` of the
        four answers (None if only one kind was answered), and how many painted and real ones were recognised
        (``painted``, ``painted_found``, ``real``, ``real_found``). 0.5 is guessing.
    """
    names = sorted({key[picture]["class"] for picture in answers})
    table = {"all": _score(answers, key)}
    for name in names if len(names) > 1 else ():
        row = name
        while row in table:  # a class that is called like the total
            row += " (class)"
        table[row] = _score({p: answer for p, answer in answers.items() if key[p]["class"] == name}, key)
    return table


def _score(answers: Mapping[str, int], key: Mapping[str, dict]) -> dict:
    painted = np.array([key[picture]["painted"] for picture in answers], bool)
    patients = [key[picture].get("patient") for picture in answers]
    known = None not in patients
    given = np.array(list(answers.values()))
    right = (given >= len(ANSWERS) // 2) == painted
    low, high = _interval(right, np.array(patients if known else range(len(right))))
    higher = given[painted][:, None] - given[~painted][None]
    return {
        "pictures": len(right),
        "patients": len(set(patients)) if known else None,
        "correct": int(right.sum()),
        "accuracy": float(right.mean()),
        "low": low,
        "high": high,
        "auc": float((higher > 0).mean() + (higher == 0).mean() / 2) if higher.size else None,
        "painted": int(painted.sum()),
        "painted_found": int(right[painted].sum()),
        "real": int((~painted).sum()),
        "real_found": int(right[~painted].sum()),
    }


def _interval(right: np.ndarray, patients: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of the share of right answers: Clopper and Pearson's for as many pictures as these are worth.

    Pictures of one patient are not independent. Their number is divided by the design effect (the variance of the
    share between patients, relative to that of independent answers) and corrected for the number of patients by the
    ratio of the t quantiles (Korn and Graubard, Survey Methodology 24, 1998), and is never above the number of
    pictures. With a single patient nothing is known.

    Args:
        right: (n,) bool, whether each answer is right.
        patients: (n,), whom each picture shows; all different: independent pictures.
    """
    from scipy.stats import beta, t

    number, share = len(right), float(right.mean())
    of_patient = np.unique(patients, return_inverse=True)[1]
    clusters = int(of_patient.max()) + 1
    worth = float(number)
    if clusters == 1 < number:
        return 0.0, 1.0
    if clusters < number:
        excess = np.bincount(of_patient, right - share)  # right answers above what the share predicts
        variance = clusters / (clusters - 1) * float((excess**2).sum()) / number**2
        if share in (0, 1):
            worth = clusters  # how much patients differ cannot be seen
        elif variance:
            worth = share * (1 - share) / variance
        worth *= (t.ppf(0.975, number - 1) / t.ppf(0.975, clusters - 1)) ** 2
        worth = min(worth, number)
    correct = share * worth
    low = beta.ppf(0.025, correct, worth - correct + 1) if share else 0.0
    return float(low), float(beta.ppf(0.975, correct + 1, worth - correct)) if share < 1 else 1.0


def _look(raw: RawDataset, manifest: Mapping[str, Any], method: str) -> _Look:
    run = next(run for run in manifest["runs"] if run["method"] == method)
    channel, first = painted_channel(run), next(iter(raw.cases))
    image = read_scan(raw, first).image[channel]
    windows = windows_of(channel in in_hu(raw, first), image, painted_window(run, channel))
    looks = Looks(windows, raw.roles.values, channel)
    return _Look(raw, looks, _isolated(raw, manifest, method, looks) if painted_whole(manifest, method) else None)


def _isolated(raw: RawDataset, manifest: Mapping[str, Any], method: str, looks: Looks) -> Window:
    """The intensities that all of a method's generators can paint."""
    channel, cache, windows = looks.channel, None, list[Window]()
    for run in (run for run in manifest["runs"] if run["method"] == method):
        known = painted_window(run, channel) or (CT_WINDOW if raw.channels[channel].upper() == "CT" else None)
        training = (run.get("generator") or {}).get("training_cases", ())
        if known is None and training:  # where an earlier version did not record them, what is shown has to do
            cache = cache or read_cache(raw, cache_folder(raw.name))
            known = intensity_windows(cache, training, raw.channels)[channel] if cache is not None else None
        windows.append(known or next(iter(looks.windows.values())))
    return max(low for low, _ in windows), min(high for _, high in windows)


def _painted(
    raw: RawDataset,
    manifest: Mapping[str, Any],
    method: str,
    name: str,
    number: int,
    look: _Look,
    rng: np.random.Generator,
    hosts: Counter[str],
    made_from: Counter[str],
    new_hosts: int,
) -> list[Shown]:
    """At most a number of painted lesions of a class, of as many cases.

    Those whose host, and whose host's patient, was shown least come first: a reader who finds the same anatomy twice
    knows that it was painted. Then those of donors that were shown least, since the same outline twice says so, too.
    Only half of the real cases may be hosts, of all classes, since their own lesions are not shown. A lesion that
    touches one of its class that the host had is shown only if there are too few others: both have one outline, which
    is neither in the middle nor of the area that is matched.

    Args:
        hosts: real case → number of painted lesions in it that are shown, of all classes; counted here.
        made_from: real case → number of shown synthetic cases that are made from it as host or donor; counted here.
        new_hosts: number of further hosts.
    """
    of_case, value, most = manifest["cases"], raw.roles.values[name], len(hosts) + new_hosts
    identifiers = [case for case in cases_of(manifest, method, name) if of_case[case]["host"] in raw.cases]
    waiting = [identifiers[i] for i in rng.permutation(len(identifiers))]
    patients = Counter(raw.patients[host] for host in hosts.elements())
    painted: list[Shown] = []
    merged: dict[str, list[Shown]] = {}
    while waiting and len(painted) < number:
        allowed = [case for case in waiting if len(hosts) < most or of_case[case]["host"] in hosts]
        if not allowed:
            break
        identifier = min(
            allowed, key=lambda case: (case in merged, *_turn(of_case[case], hosts, patients, made_from, raw))
        )
        if identifier in merged:
            found = merged[identifier]
        else:
            # whole, since a picture that ends where a box ends would say that it is painted
            case = read_injected(raw, identifier, of_case[identifier], whole=True)
            new = case.new(value)
            patient = raw.patients[of_case[identifier]["host"]]
            found = _shown(case, patient, new, look, name, value, True)
            if found and _touches(largest_part(new), (case.label == value) & ~new):
                merged[identifier] = found
                continue
        waiting.remove(identifier)
        if found:
            painted += found
            hosts[of_case[identifier]["host"]] += 1
            patients[raw.patients[of_case[identifier]["host"]]] += 1
            made_from.update(origins(of_case[identifier]))
    return painted


def _touches(lesion: np.ndarray, others: np.ndarray) -> bool:
    """Whether one of (z, y, x) voxels, or one of its 26 neighbours, is among others."""
    from scipy import ndimage

    (box,) = ndimage.find_objects(lesion.astype(np.uint8))
    around = tuple(slice(max(0, part.start - 1), part.stop + 1) for part in box)
    return bool((ndimage.binary_dilation(lesion[around], np.ones((3, 3, 3))) & others[around]).any())


def _turn(
    record: dict, hosts: Counter[str], patients: Counter[str], made_from: Counter[str], raw: RawDataset
) -> tuple[int, int, int]:
    host = record["host"]
    donors = origins(record) - {host}
    return hosts[host], patients[raw.patients[host]], max((made_from[donor] for donor in donors), default=0)


def _real(
    raw: RawDataset,
    hosts: Collection[str],
    made_from: Collection[str],
    name: str,
    number: int,
    look: _Look,
    rng: np.random.Generator,
) -> list[Shown]:
    """Real lesions of a class to choose a number from, of as many cases, none of them a host.

    Those of patients from whom no shown painted lesion is made come first, and others only where these are too few: a
    reader who finds the same anatomy or the same outline twice knows that one of them was painted. A second case of a
    patient comes after all first ones.

    Args:
        hosts: real cases with a painted lesion that is shown.
        made_from: real cases that the shown synthetic cases are made from, as hosts or donors.
        number: of lesions that will be shown.
    """
    cases, value = sorted(set(raw.cases) - set(hosts)), raw.roles.values[name]
    patients = {raw.patients[case] for case in {*hosts, *made_from} & set(raw.patients)}
    turns, seen = {}, Counter[str]()
    for case in (cases[i] for i in rng.permutation(len(cases))):
        turns[case] = (raw.patients[case] in patients) + (case in made_from), seen[raw.patients[case]]
        seen[raw.patients[case]] += 1
    real: list[Shown] = []
    for case in sorted(turns, key=lambda case: turns[case]):
        known, _ = turns[case]
        if len(real) >= (number if known else _TRIED * number):
            break
        if (raw.read_label(case)[0] == value).any():
            scan = read_scan(raw, case)
            real += _shown(scan, raw.patients[case], scan.label == value, look, name, value, False)
    return real


def _matched(painted: Sequence[Shown], real: Sequence[Shown]) -> list[Shown]:
    """Each painted lesion with the real one that is nearest in area, as long as there are any."""
    chosen = nearest_in_area([lesion.area for lesion in painted], [lesion.area for lesion in real])
    return [shown for lesion, i in zip(painted, chosen, strict=False) for shown in (lesion, real[i])]


def _shown(
    scan: Scan, patient: str, voxels: np.ndarray, look: _Look, name: str, value: int, painted: bool
) -> list[Shown]:
    """A case's largest lesion of a class; none if it is too small to see."""
    lesion = largest_part(voxels)
    pixels = int(lesion.sum((1, 2)).max())
    if pixels < _LEAST:
        return []
    looks = Looks(look.looks.windows, {name: value}, look.looks.channel)
    picture = lesion_picture(look.of(scan), lesion, looks, name)
    area = round(pixels * scan.spacing[1] * scan.spacing[2], 1)
    return [Shown(picture, painted, name, scan.identifier, patient, area)]
