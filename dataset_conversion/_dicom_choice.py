"""Which of a patient's DICOM files are the CT series to convert."""
from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from nnunet_difflung.command_line import BadInput
from nnunet_difflung.dataset_conversion._dicom_files import Header

DRAWINGS = ("RTSTRUCT", "SEG")


def ct_series(headers: Sequence[Header]) -> tuple[dict[str, list[Header]], list[str]]:
    """CT slices by series, largest first, and notes on the files that are none."""
    series: dict[str, list[Header]] = {}
    others: Counter[str] = Counter()
    seen: set[str] = set()
    for header in headers:
        if header.modality in ("", *DRAWINGS):
            continue
        if header.modality != "CT":
            others[f"of modality {header.modality}"] += 1
        elif header.localizer:
            others["of a localizer (scout)"] += 1
        elif header.frames > 1:
            others["of multi-frame CT (export it as one file per slice)"] += 1
        elif header.position is None or len(header.orientation) != 6 or not all(header.spacing + header.size):
            others["of CT without a place in the patient or a pixel spacing"] += 1
        elif header.uid and header.uid in seen:
            others["that are copies of another file"] += 1
        else:
            seen.add(header.uid)
            series.setdefault(header.series, []).append(header)
    notes = [f"left out {n} file{'s' * (n > 1)} {kind}" for kind, n in sorted(others.items())]
    return dict(sorted(series.items(), key=lambda item: -len(item[1]))), notes


def choose_series(series: dict[str, list[Header]], left_out: Sequence[str], wanted: str | None,
                  referenced: Collection[str], where: str) -> list[Header]:
    """The one series to convert.

    Args:
        series: as of ``ct_series``.
        left_out: notes of ``ct_series``, for the message where there is no series.
        wanted: what ``--series`` says: a series' folder, relative to the archive or its last part, or its number
            of slices.
        referenced: series that contours or segmentations belong to.
        where: archive and patient, for messages.

    Raises:
        BadInput: none, or more than one that could be meant.
    """
    if not series:
        found = "; ".join(left_out) or "no image"
        raise BadInput(f"{where}: no CT series ({found}); expected axial CT slices with positions: add them or remove "
                       f"the patient")
    choice = list(series.values())
    if wanted is not None:
        wanted = wanted.rstrip("/")
        choice = [s for s in choice if wanted in (str(len(s)), _folder(s), _folder(s).rsplit("/", 1)[-1])]
    elif len(choice) > 1:
        choice = [s for uid, s in series.items() if uid in referenced] or choice
    if len(choice) == 1:
        return choice[0]
    listed = ", ".join(f"{_folder(s)} ({len(s)} slice{'s' * (len(s) > 1)}, first file {s[0].path.rsplit('/', 1)[-1]})"
                       for s in (choice or series.values()))
    asked = "" if wanted is None else f" and {len(choice) or 'none'} of them match{'es' * (not choice)} {wanted!r}"
    raise BadInput(f"{where}: {len(series)} CT series{asked}: {listed}; expected one: name it with --series FOLDER or "
                   f"--series NUMBER_OF_SLICES, or move the others away")


def _folder(slices: Sequence[Header]) -> str:
    return Counter(h.folder for h in slices).most_common(1)[0][0]
