"""Words in ids: for patients, sources of patients, and what is no patient; and numbers that are dates."""

from __future__ import annotations

import re
from datetime import datetime

_TIME = """t tp time timepoint v vis visit d day w wk week m mo month y yr year h hour ses sess session exam
    study date base baseline bl follow followup fu control ctrl pre post before after initial init final early late
    first second third last prior current old repeat rep retest test phase ph
    round cycle stage step fraction fx treatment wave period interval preop postop intraop pretreatment posttreatment
    screening admission discharge relapse interim rescan replan plan exam examination arterial venous portal delayed"""
_SIDE = """l r left right lt rt li re upper lower ul ll ur lr rul rml rll lul lll lobe side front back top bottom
    apex apical basal mid middle prone supine"""
_SERIES = """scan acq acquisition run series ser se sr seq recon rec volume vol insp inspiration exp expiration ex in
    kernel kern k b br bl bf bv fc sharp soft smooth hard std standard bone lung window thin thick ce nc contrast with
    without native dose ld hd stack ct axial ax coronal cor sagittal sag ch channel cbct ldct ndct lowdose fulldose
    highdose cect ncct hrct pet mr mri gated ungated enhanced unenhanced plain"""
_PART = """s z sl slice slices img im image pic picture frame fr f page part of n no nr nod nodule les lesion roi
    crop patch tile box seg mask label annotation ann reader rater rad aug copy tumor tumour mass finding cyst opacity
    metastasis met gtv ctv ptv vessel region component"""
_EXAMINATION = """accession acc encounter episode sequence file stay record report
    aufnahme untersuchung bild datei serie examen etude fichier estudio imagen archivo"""
_PLACE = """site center centre hospital hosp clinic cohort group grp fold set dataset ds batch trial project source src
    vendor scanner country institution inst arm class cls task lab uni univ university department dept ward unit device
    machine city network challenge collection corpus subset split chunk folder dir archive zip club train training val
    valid validation"""
_PATIENT = "patient pat pt p subject subj sub case person participant id"

_SETS = """lung chest thorax lidc idri luna nsclc msd medseg mosmed mosmeddata coronacases radiopaedia covid tcia nlst
    lits kits brats flare amos rsna osic phantom lola exact atm aeropath stoic nih"""  # public sets of patients

_NEVER_NUMBERED = frozenset(f"{_TIME} {_SIDE} {_SERIES} {_PART} {_EXAMINATION} {_PLACE}".split()) - {
    *("lung", "ct", "train", "training", "val", "valid", "validation"),
}
_NEVER_ALONE = frozenset(f"{_TIME} {_SIDE} {_SERIES} {_PART}".split()) - {"ct", "lung", "image", "test", "set"}
_SOURCES = frozenset(f"{_SETS} {_PLACE}".split())
PATIENT_WORDS = tuple(_PATIENT.split())
PLACE_WORDS = frozenset(_PLACE.split())
COHORT_WORDS = frozenset(["train", "training", "val", "valid", "validation", "test", "testing"])
_ENDINGS = ("id", "uid", "no", "nr", "num", "number")  # of a word that is numbered
_BEFORE, _AFTER = re.compile("^(?:ct|chest|thorax|lung)(?=.)"), re.compile(f"(?<=.)(?:{'|'.join(_ENDINGS)})$")
_SHORT_BUT_PATIENT = frozenset(["p", "pt", "id"])


def could_be_patient(word: str, numbered: bool) -> bool:
    """Whether a word of letters can be part of the name of a patient.

    Args:
        word: letters, in upper or lower case.
        numbered: whether the id's only number belongs to it, as in ``case01`` or ``case_01``. Then words of one or two
            letters are not accepted either (but for ``p``, ``pt``, ``id``), since they abbreviate anything.
    """
    word = word.casefold()
    if not numbered:
        return word not in _NEVER_ALONE
    forms = {word, _AFTER.sub("", word), _BEFORE.sub("", word), _AFTER.sub("", _BEFORE.sub("", word))}
    return not forms & _NEVER_NUMBERED and (len(word) > 2 or word in _SHORT_BUT_PATIENT)


def could_be_subject(label: str) -> bool:
    """Whether the label of a BIDS subject names only the subject: ``01``, ``S01``; not ``L01``, ``pre01``."""
    word = label.rstrip("0123456789").casefold()
    other = means_something_else(word) and (len(word) > 1 or word in ("l", "r"))
    return not is_date(label) and (not other or word in ("control", "ctrl", "test"))


def is_source(word: str) -> bool:
    """Whether a word names a source of patients: a public set, or a place with or without a letter (``siteA``)."""
    word = word.casefold()
    return word in _SOURCES or word[:-1] in PLACE_WORDS


def is_ending(word: str) -> bool:
    """Whether a word only says that the one before it is numbered: ``id``, ``no``, ``number``."""
    return word.casefold() in _ENDINGS


def means_something_else(word: str) -> bool:
    """Whether a word names a time point, side, series or part of a scan."""
    return word.casefold() in _NEVER_ALONE


def is_date(digits: str) -> bool:
    """Whether digits can be a year (1970–2049), a date (YYYYMMDD, YYMMDD, DDMMYYYY), or a date with a time."""
    if re.fullmatch(r"19[7-9][0-9]|20[0-4][0-9]", digits):
        return True
    forms = {6: ("%y%m%d",), 8: ("%Y%m%d", "%d%m%Y"), 12: ("%Y%m%d%H%M",), 14: ("%Y%m%d%H%M%S",)}
    return any(_parses(digits, form) for form in forms.get(len(digits), ()))


def _parses(digits: str, form: str) -> bool:
    try:
        return 1970 <= datetime.strptime(digits, form).year < 2050
    except ValueError:
        return False
