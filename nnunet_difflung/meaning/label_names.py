"""What the name of a label says, and names on a command line: how they are matched, and how they are printed.

The rules are made for English names. For names in other languages there are a few words, which are enough to ask about
them instead of taking them for a pathology.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence
from enum import Enum, auto


class Meaning(Enum):
    """What a label's name says."""

    NORMAL = auto()  # normal or healthy lung
    LUNG = auto()  # lung or a part of it, without saying whether it is normal
    PERHAPS_LUNG = auto()  # may be normal lung: in another language, or with words such as "unaffected" or "rest"
    UNSURE = auto()  # says two things, such as "no lesion" or "normal or mild emphysema"
    STRUCTURE = auto()  # anatomy outside normal lung, such as trachea or heart
    DISEASE = auto()  # a finding
    UNKNOWN = auto()  # anything else, mostly a pathology


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_NORMAL = _set("normal healthy")
_NEGATIONS = _set(
    "no not non un ab without lacking absent absence loss lost less never neither nor nothing except excluding "
    "outside minus sub pseudo near nearly almost hardly partly former reduced decreased free isn isnt aren arent below "
    "beyond besides instead than far poorly badly hypo hyper nicht kein keine keinen "
    "ohne sans pas hors sin sem nao senza niet geen zonder ikke inte ej utan nie bez ne не нет"
)
_LUNG = _set("lung lungs parenchyma lingula lul lll rul rml rll")
_SIDES = _set("left right l r lt rt")
_LEVELS = _set("upper middle lower superior inferior anterior posterior apical basal segment segments")
_ABBREVIATED = _set("lingula lul lll rul rml rll")
_OF_LUNG = _set(
    "lobe lobes tissue pulmonary parenchymal field fields both whole total bilateral entire all full mask label seg "
    "segmentation roi region area class the of in and"
)
_PARTS = _SIDES | _LEVELS | _ABBREVIATED
_BESIDE_NORMAL = _set("appearing looking aerated attenuation density pattern texture patch patches ct")
_PERHAPS = _set(
    "rest remaining remainder residual other spared intact aerated clear unremarkable unaffected uninvolved "
    "uninfected undiseased uninjured undamaged"
)
_STRUCTURES = _set(
    "trachea airway airways bronchus bronchi bronchia bronchial carina larynx heart cardiac myocardium "
    "ventricle atrium pericardium aorta artery arteries vein veins vessel vessels vascular vasculature cava "
    "mediastinum esophagus oesophagus thymus thyroid diaphragm pleura fissure fissures hilum rib ribs bone bones "
    "spine vertebra vertebrae sternum scapula clavicle humerus costal skeleton spinal cord liver spleen stomach "
    "kidney kidneys adrenal pancreas colon bowel gallbladder muscle muscles fat skin breast breasts chest thorax body "
    "soft tube table background ignore ignored void unlabeled unlabelled artifact artefact"
)
_DISEASES = _set(
    "lesion lesions nodule nodules tumor tumors tumour tumours cancer carcinoma mass masses disease diseased diseases "
    "pathology pathological infection infected opacity opacities consolidation consolidations emphysema fibrosis "
    "fibrotic ggo ground effusion pneumonia covid injury damage damaged affected involved abnormality "
    "abnormalities finding findings metastasis metastases edema oedema atelectasis collapse collapsed cavity cyst "
    "cysts honeycombing reticulation reticular thickening plaque plaques embolism thrombus ild ipf copd stenosis "
    "bronchiectasis calcification calcifications pneumothorax bulla bullae micronodules crazy paving"
)
_FIBROSES = _set("fibrosis fibroses fibrotic interstitial ild ipf uip")
_ABROAD = _set(  # lung, without accents
    "lunge lungen lungenflugel lungengewebe lungenparenchym parenchym poumon poumons pulmon pulmones pulmao pulmoes "
    "polmone polmoni longen longweefsel lungor lunger pulmonar pulmonaire polmonare keuhko keuhkot pluco pluca "
    "plice akciger plaman легкое легкие"
)
_NORMAL_PERHAPS = _set(
    "health norm normals normally gesund gesunde gesunder gesundes normale normaler normales normaux sain saine "
    "sains sano sana sanos saludable saudavel gezond gezonde saglıklı normaal frisk normalt zdrowe здоровое норма"
)
_PARTS_ABROAD = _set(
    "linke linker linkes links rechte rechter rechtes rechts gauche droit droite izquierdo derecho esquerdo direito "
    "sinistro destro venstre hoyre vanster hoger lewe prawe левое правое tejido tissu tessuto tecido gewebe "
    "oberlappen unterlappen mittellappen lobo lobi"
)
_ALL_OF_LUNG = _ABROAD | _NORMAL_PERHAPS | _PARTS_ABROAD | _LUNG | _SIDES | _LEVELS | _OF_LUNG
_CHINESE = "左右双两全肺上中下叶葉部正常健康组织組織实质實質区域區域"
_PIECE = re.compile(
    "ab(?=normal)|non|not|un|sub|left|right|upper|middle|lower|lungs|lung|normal|healthy|tissue|parenchyma|lobe|mask"
)
_JOINED = re.compile(f"(?:{_PIECE.pattern})+")


def words_of(name: str) -> list[str]:
    """The words of a name in small letters without accents: of ``NormalLung_2`` they are normal, lung and 2."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", unicodedata.normalize("NFC", name))
    spaced = re.sub(r"\bw/o\b", "without", spaced, flags=re.IGNORECASE)
    letters = unicodedata.normalize("NFKD", spaced.casefold().replace("ł", "l"))
    plain = "".join(c for c in letters if not unicodedata.combining(c))
    words: list[str] = []
    for word in re.findall(r"[^\W\d_]+|\d+", plain):
        words += _PIECE.findall(word) if _JOINED.fullmatch(word) else [word]
    return words


def meaning_of(name: str) -> Meaning:
    """What a label's name says."""
    ordered = [word for word in words_of(name) if not word.isdigit()]
    words = set(ordered)
    if set(name) & set("肺健正"):
        return _meaning_in_chinese(name)
    about_lung = words - _NEGATIONS <= _LUNG | _SIDES | _LEVELS | _OF_LUNG and bool(words & _LUNG)
    if words & _NEGATIONS:
        return _negated(ordered, about_lung)
    if words & _DISEASES:
        return Meaning.UNSURE if words & (_NORMAL | _NORMAL_PERHAPS) else Meaning.DISEASE
    if words & _STRUCTURES:
        return Meaning.STRUCTURE
    if words & _NORMAL:  # a normal lymph node is no lung
        return Meaning.PERHAPS_LUNG if words - _BESIDE_NORMAL - _NORMAL - _ALL_OF_LUNG else Meaning.NORMAL
    place = words <= _SIDES | _LEVELS | _OF_LUNG
    if about_lung or (place and words & {"lobe", "lobes"} and words & _LEVELS):
        return Meaning.LUNG
    return Meaning.PERHAPS_LUNG if _perhaps_lung(words, place) else Meaning.UNKNOWN


def _perhaps_lung(words: set[str], place: bool) -> bool:
    """Whether a name may mean lung: ``left`` (beside ``right``), ``unaffected lung``, ``linke Lunge``."""
    abroad = words & (_ABROAD | _NORMAL_PERHAPS)
    if words - _ALL_OF_LUNG:
        return bool(words & _PERHAPS and words & (_LUNG | _ABROAD | _NORMAL_PERHAPS | {"tissue"}))
    return bool(abroad) or (place and bool(words & (_SIDES | _LEVELS)))


def _negated(words: list[str], about_lung: bool) -> Meaning:
    """Of a name with a word such as "not".

    ``non-healthy`` and ``non-solid nodule`` are findings, ``non-lung`` lies outside the lung, and ``no lesion`` may be
    anything.
    """
    if set(words) & (_NORMAL | _NORMAL_PERHAPS):
        return Meaning.DISEASE if len(set(words) & _NEGATIONS) == 1 else Meaning.UNSURE
    diseases = [i for i, word in enumerate(words) if word in _DISEASES]
    if diseases:
        nearby = words[max(0, diseases[0] - 1) : diseases[0] + 2]
        return Meaning.UNSURE if len(diseases) == 1 and set(nearby) & _NEGATIONS else Meaning.DISEASE
    return Meaning.STRUCTURE if about_lung or set(words) & _STRUCTURES else Meaning.UNKNOWN


def _meaning_in_chinese(name: str) -> Meaning:
    characters = {c for c in name if not c.isspace() and c.isalpha()}
    return Meaning.PERHAPS_LUNG if characters <= set(_CHINESE) else Meaning.UNKNOWN


def is_fibrosis(name: str) -> bool:
    """Whether the name of a pathology says fibrosis or interstitial lung disease."""
    words = set(words_of(name))
    return bool(words & _FIBROSES) and not words & _NEGATIONS


def is_part(name: str) -> bool:
    """Whether the name of a lung says that it is one side or one lobe."""
    return bool(set(words_of(name)) & _PARTS)


# ---- names on a command line ----


def _key(name: str) -> str:
    """What two spellings of a name share: composed and decomposed letters are the same, and so are kinds of spaces."""
    return " ".join(unicodedata.normalize("NFC", name).split())


def named(given: str, labels: Iterable[str]) -> str | None:
    """The label that a name on the command line means; None if there is none, or if it may be one of several."""
    labels = list(labels)
    if given in labels:
        return given
    alike = [label for label in labels if _key(label) == _key(given)]
    return alike[0] if len(alike) == 1 else None


def option(name: str, labels: Sequence[str]) -> str:
    """An option with labels as it can be pasted into a shell; empty without labels."""
    plain = [shlex.quote(label) for label in labels if not label.startswith("-")]
    dashed = [f"{name}={shlex.quote(label)}" for label in labels if label.startswith("-")]
    return " ".join([*([name, *plain] if plain else []), *dashed])
