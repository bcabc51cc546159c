"""Which labels are normal lung by their names, and what is asked where the names leave it open."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.label_names import Meaning, is_part, meaning_of, option

NORMAL_OPTION, STRUCTURE_OPTION = "--normal-label", "--structure-label"
_SAYS_LUNG = (Meaning.NORMAL, Meaning.LUNG)
_MAY_BE_LUNG = (*_SAYS_LUNG, Meaning.PERHAPS_LUNG)
_READS_AS = {
    Meaning.NORMAL: "means normal lung",
    Meaning.LUNG: "means lung",
    Meaning.PERHAPS_LUNG: "may mean normal lung",
    Meaning.STRUCTURE: "means a structure",
    Meaning.DISEASE: "means a pathology",
    Meaning.UNSURE: "is unclear",
    Meaning.UNKNOWN: "is unclear",
}


def by_name(labels: Iterable[str], structures: Sequence[str], where: str) -> tuple[str, ...]:
    """The labels whose names say plainly that they are normal lung: one label, or one for each lung or lobe.

    Raises:
        BadInput: no name says so, or several do and are not parts of the lungs, or a name may say so.
    """
    meanings = {name: meaning_of(name) for name in labels}
    normal = _plainly_normal({name: meaning for name, meaning in meanings.items() if name not in structures})
    if normal == ():  # then it may be among the structures, which is refused
        normal = tuple(name for name in structures if meanings[name] in _SAYS_LUNG)
    if not normal:
        raise BadInput(_question(meanings, structures, where))
    return normal


def _plainly_normal(meanings: Mapping[str, Meaning]) -> tuple[str, ...] | None:
    """The labels that are normal lung: one, or the parts of the lungs; None if the names leave it open."""
    lung = tuple(name for name, meaning in meanings.items() if meaning in _SAYS_LUNG)
    in_doubt = any(meaning in (Meaning.PERHAPS_LUNG, Meaning.UNSURE) for meaning in meanings.values())
    parts = len({meanings[name] for name in lung}) == 1 and all(is_part(name) for name in lung)
    return None if in_doubt or (len(lung) > 1 and not parts) else lung


def normal_by_name(labels: Sequence[str]) -> tuple[str, ...]:
    """The labels that are normal lung by their names; none if that is not plain."""
    return _plainly_normal({name: meaning_of(name) for name in labels}) or ()


def _question(meanings: dict[str, Meaning], structures: Sequence[str], where: str) -> str:
    """Asks which labels are normal lung: how each name reads, and options that say it."""
    names = [name for name in meanings if name not in structures]
    reads = "; ".join(f"the name {name!r} {_READS_AS[meanings[name]]}" for name in names)
    lung = [name for name in names if meanings[name] in _MAY_BE_LUNG]
    doubt = "leaves open which labels are normal lung" if lung else "has no label that is clearly normal lung"
    line = f"{where} {doubt}: {reads or 'it has no further label'}"
    choice = lung or [name for name in names if meanings[name] in (Meaning.UNKNOWN, Meaning.UNSURE)][:1]
    anatomy = [*structures, *(name for name in names if meanings[name] is Meaning.STRUCTURE)]
    pathologies = [name for name in names if name not in (*choice, *anatomy)]
    if not choice or not pathologies:
        if choice:
            return f"{line}; none of them can be a pathology: add a label for it{_or_rename(choice)}"
        given = f", or name it with {NORMAL_OPTION} LABEL" if len(names) > 1 else ""
        return f"{line}; lesions are pasted into normal lung: add a label for it{given}"
    if not lung and any(meanings[name] is Meaning.UNKNOWN for name in pathologies):  # it may be another lung
        only = f"if it is {choice[0]!r} alone, give {_options(choice, anatomy)}"
        return f"{line}; name all labels that are normal lung; {only}"
    line += f"; if {are(pathologies, 'the only pathology', 'the pathologies')}, give "
    line += _options(choice, anatomy)
    if len(choice) > 1:
        single = next((name for name in choice if meanings[name] is Meaning.NORMAL), choice[0])
        apart = [name for name in choice if name != single]
        line += f", or, to keep lesions out of {listed(apart)}, {_options([single], [*anatomy, *apart])}"
    return line


def _or_rename(names: Sequence[str]) -> str:
    """What to do if a label that reads as lung is a pathology after all."""
    which = repr(names[0]) if len(names) == 1 else "one of them"
    return f", or, if {which} is a pathology, rename it in dataset.json, for example to {f'{names[-1]} lesion'!r}"


def _options(normal: Sequence[str], structures: Sequence[str]) -> str:
    return f"{option(NORMAL_OPTION, normal)} {option(STRUCTURE_OPTION, structures)}".strip()


def refuse_lung_as_pathology(
    normal: Sequence[str], pathologies: Sequence[str], structures: Sequence[str], where: str
) -> None:
    """Refuses that a lung becomes a pathology of the other because only one of them was named as normal lung.

    Raises:
        BadInput: with the options to choose from.
    """
    lung = [name for name in pathologies if meaning_of(name) in _MAY_BE_LUNG]
    if not lung:
        return
    if len(lung) < len(pathologies):
        apart = f"to keep lesions out of {listed(lung)}, {_options(normal, [*structures, *lung])}"
        remedies = f"give {_options([*normal, *lung], structures)}, or, {apart}"
    elif any(meaning_of(name) not in _MAY_BE_LUNG for name in normal):
        remedies = (
            f"give {_options([*lung, *(name for name in normal if meaning_of(name) in _MAY_BE_LUNG)], structures)}"
        )
    else:
        remedies = "add a label for a pathology"
    remedies += _or_rename(lung)
    reads = "a pathology, but its name reads" if len(lung) == 1 else "pathologies, but their names read"
    raise BadInput(
        f"{where}: with {option(NORMAL_OPTION, normal)} alone, {listed(lung)} would be {reads} as lung; {remedies}"
    )


def refuse_structures_alone(
    normal: Sequence[str], pathologies: Sequence[str], structures: Sequence[str], where: str
) -> None:
    """Refuses pathologies whose names all say anatomy, unless normal lung was named and so the others were meant.

    Raises:
        BadInput: with the option that says so.
    """
    if all(meaning_of(name) is Meaning.STRUCTURE for name in pathologies):
        raise BadInput(
            f"{where} has no label that reads as a pathology: {are(normal, 'normal lung', 'normal lung')}, and "
            f"{are(pathologies, 'a structure', 'structures')} by name; add a label for a pathology, or, if "
            f"{listed(pathologies)} {'is' if len(pathologies) == 1 else 'are'} to be painted into normal lung, give "
            f"{_options(normal, structures)}"
        )


def listed(names: Sequence[str]) -> str:
    """``'a', 'b' and 'c'``."""
    return " and ".join([*filter(None, [", ".join(map(repr, names[:-1]))]), *map(repr, names[-1:])])


def are(names: Sequence[str], one: str, several: str) -> str:
    """``'a' is a pathology``, ``'a' and 'b' are pathologies``."""
    return f"{listed(names)} {f'is {one}' if len(names) == 1 else f'are {several}'}"
