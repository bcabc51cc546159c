"""Roles of labels by their names: as data sets name them, as nobody would guess, and as they are asked for."""

from __future__ import annotations

import argparse
import re
import shlex
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_difflung.commands.options import add_labels
from nnunet_difflung.errors import BadInput
from nnunet_difflung.meaning.label_names import Meaning, meaning_of, named, option
from nnunet_difflung.meaning.labels import LabelRoles, described, label_roles, structures_by_name, with_names

LUNG = (Meaning.NORMAL, Meaning.LUNG, Meaning.PERHAPS_LUNG)
LOBES = (
    "lung_upper_lobe_left",
    "lung_lower_lobe_left",
    "lung_upper_lobe_right",
    "lung_middle_lobe_right",
    "lung_lower_lobe_right",
)


def labels_of(*names: str) -> dict[str, int]:
    return {"background": 0, **{name: value for value, name in enumerate(names, start=1)}}


def roles(*names: str, normal=(), structures=()) -> LabelRoles:
    return label_roles({"labels": labels_of(*names)}, "dataset.json", normal, structures)


@pytest.mark.parametrize(
    "name",
    [
        "non-healthy",
        "not_normal",
        "un-healthy lung",
        "non normal lung",
        "abnormal",
        "no healthy tissue",
        "nicht gesund",
        "nonHealthy",
        "NonNormal_Lung",
        "unhealthy",
        "notnormal",
        "subnormal",
        "less normal",
        "w/o normal",
        "nearly normal lung",
        "not quite healthy",
        "normalized",
        "paranormal",
        "anormal",
        "isn't normal",
        "other than normal",
        "below normal",
        "poorly-aerated lung",
        "hypo-aerated lung",
    ],
)
def test_what_is_not_normal_is_a_pathology_of_lung(name):
    found = roles("lung", name)
    assert (found.normal, found.pathologies) == (("lung",), (name,))
    found = roles(name, "normal_lung")
    assert (found.normal, found.pathologies) == (("normal_lung",), (name,))


@pytest.mark.parametrize(
    ("names", "normal"),
    [
        (("lung", "lesion"), ("lung",)),
        (("normal", "emphysema"), ("normal",)),
        (("healthy parenchyma", "GGO", "consolidation", "reticulation", "honeycombing"), ("healthy parenchyma",)),
        (("left lung", "right lung", "trachea", "infection"), ("left lung", "right lung")),
        (("left_lung", "right_lung", "infection"), ("left_lung", "right_lung")),
        (("lesion", *LOBES), LOBES),
        (("RUL", "RML", "RLL", "LUL", "LLL", "nodule"), ("RUL", "RML", "RLL", "LUL", "LLL")),
        (("healthy_lung_left", "healthy_lung_right", "GGO"), ("healthy_lung_left", "healthy_lung_right")),
        (("lung1", "lesion"), ("lung1",)),
        (("NormalLung", "lesion"), ("NormalLung",)),
        (("LUNGS", "Lesion"), ("LUNGS",)),
        (("LungL", "LungR", "Nodule"), ("LungL", "LungR")),
        (("normal-appearing lung", "lesion"), ("normal-appearing lung",)),
        (("normal lung (gesund)", "肺气肿 emphysème"), ("normal lung (gesund)",)),
        (("healthy liver", "lung", "nodule"), ("lung",)),
        (("lung", "lung lesion", "lung nodule left"), ("lung",)),
        (("lung", "non-solid nodule", "non-small cell cancer"), ("lung",)),
    ],
    ids=str,
)
def test_normal_lung_of_sets_as_they_occur(names, normal):
    found = roles(*names)
    assert set(found.normal) == set(normal)
    assert set(found.pathologies) == set(names) - set(normal)
    assert found.conditions[: len(normal)] == found.normal


@pytest.mark.parametrize(
    "names",
    [
        ("normal", "healthy", "ILD"),
        ("lung", "normal", "ILD"),
        ("lung", "left lung", "lesion"),
        ("lung1", "lung2", "lesion"),
        ("normal_lung", "normal_lung_left", "ILD"),
        ("healthy left lung", "left lung", "right lung", "ILD"),
        ("lung", "unaffected lung", "ILD"),
        ("lung", "no lesion"),
        ("lung", "normal or mild emphysema"),
        ("left", "right", "infection"),
        ("Lunge", "Emphysem"),
        ("linke Lunge", "rechte Lunge", "Infektion", "trachea"),
        ("poumon gauche", "poumon droit", "lésion"),
        ("左肺", "右肺", "感染"),
        ("-left lung-", "lung", "b"),
        ("it's", "b"),
        ("lung  rest", "b"),
        ("a", "b", "c"),
        ("lung", "heart"),
        ("lung parenchyma", "non-lung"),
    ],
    ids=str,
)
def test_what_is_not_plain_is_asked_for_with_options_that_work(names):
    with pytest.raises(BadInput) as refused:
        roles(*names)
    text = " ".join(str(refused.value).split())  # as it is printed
    assert all(" ".join(name.split()) in text for name in names)
    proposals = proposed(text)
    assert proposals
    for given_options in proposals:
        found = roles(*names, normal=given_options.normal_label, structures=given_options.structure_label)
        assert not any(meaning_of(name) in LUNG for name in found.pathologies)


def proposed(text: str) -> list[argparse.Namespace]:
    """The options in a message, parsed as a shell and the command would."""
    parser = argparse.ArgumentParser()
    add_labels(parser)
    parts = re.findall(r"(--normal-label.*?)(?=, or, |$)", text.split(" alone, ")[-1])
    return [parser.parse_args(shlex.split(part)) for part in parts]


@pytest.mark.parametrize(
    ("names", "normal"),
    [
        (("left lung", "right lung", "infection"), ["left lung"]),
        ((*LOBES, "lesion"), list(LOBES[:2])),
        (("normal", "healthy", "ILD"), ["normal"]),
        (("linke Lunge", "rechte Lunge", "Infektion"), ["rechte Lunge"]),
        (("lung", "unaffected lung", "ILD"), ["lung"]),
        (("normal_lung", "emphysema"), ["emphysema"]),
    ],
    ids=str,
)
def test_a_lung_is_never_a_pathology_of_another_lung(names, normal):
    with pytest.raises(BadInput, match=r"would be (a pathology|pathologies), but") as refused:
        roles(*names, normal=normal)
    for given_options in proposed(str(refused.value)):
        found = roles(*names, normal=given_options.normal_label, structures=given_options.structure_label)
        assert not any(meaning_of(name) in LUNG for name in found.pathologies)


def test_where_no_name_is_clear_all_lungs_are_asked_for():
    with pytest.raises(BadInput, match="name all labels that are normal lung") as refused:
        roles("linkerlong", "rechterlong", "laesie")
    assert str(refused.value).endswith("if it is 'linkerlong' alone, give --normal-label linkerlong")
    found = roles("linkerlong", "rechterlong", "laesie", normal=["linkerlong", "rechterlong"])
    assert described(found) == "normal lung is 'linkerlong' and 'rechterlong', pathologies are 'laesie'"


def test_one_lung_may_be_a_structure():
    found = roles("left lung", "right lung", "infection", structures=["right lung"])
    assert (found.normal, found.pathologies, found.structures) == (("left lung",), ("infection",), ("right lung",))


@pytest.mark.parametrize(
    ("names", "options", "part"),
    [
        (("left lung", "right lung"), {}, "no pathology"),
        (("cancer",), {}, "add a label for it"),
        (("Lunge", "trachea"), {}, "can be a pathology"),
        (("lung", "ILD"), {"structures": ["ILD"]}, "no pathology"),
        (("lung", "ILD"), {"structures": ["lung"]}, "--structure-label lung is the normal lung"),
        (("lung", "ILD"), {"normal": ["lung", "x"]}, "--normal-label x is not among"),
        (("lung", "ILD", "derived_body"), {}, "reserved"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused(names, options, part):
    with pytest.raises(BadInput, match=part):
        roles(*names, **options)


def test_the_order_of_normal_labels_is_that_of_the_dataset():
    once, again = (roles(*LOBES, "lesion", normal=order) for order in (LOBES, (*LOBES[::-1], LOBES[0])))
    assert once == again


def test_several_lungs_keep_their_channels_and_share_the_lung():
    found = roles("infection", "left lung", "right lung", "airway", structures=["airway"])
    assert found.conditions == ("left lung", "right lung", "infection", "airway", "derived_body")
    assert found.condition_values().tolist() == [2, 3, 1, 4, 5]
    assert found.lung_values().tolist() == [2, 3, 1]
    assert found.is_normal(np.arange(6)).tolist() == [False, False, True, True, False, False]
    assert described(found) == (
        "normal lung is 'left lung' and 'right lung', pathologies are 'infection', structures are 'airway'"
    )


def test_structures_are_known_by_name():
    found = roles("lung", "nodule", "airway", "lung vessels", "Heart", "LungTracheaBronchia")
    assert structures_by_name(found) == ("airway", "lung vessels", "Heart", "LungTracheaBronchia")


# ---- spelling ----

COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "Emphysème à gauche") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("given_name", "label"), [(COMPOSED, DECOMPOSED), (DECOMPOSED, COMPOSED)])
def test_composed_and_decomposed_letters_are_the_same(given_name, label):
    found = roles("lung", label, "ILD", structures=[given_name])
    assert found.structures == (label,)
    assert with_names({given_name: 0.1}, roles("lung", label)) == {label: 0.1}


def test_spaces_are_the_same_and_an_exact_name_comes_first():
    assert named("left lung", ["left  lung ", "right lung"]) == "left  lung "
    assert named(COMPOSED, [DECOMPOSED, COMPOSED]) == COMPOSED
    assert named("a b", ["a  b", "a   b"]) is None
    assert with_names({"nothing": 0.1}, roles("lung", "ILD")) == {"nothing": 0.1}


NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12).filter(lambda n: n.strip())


@given(st.lists(st.one_of(NAMES, NAMES.map("-{}".format), NAMES.map("--x={}".format)), min_size=1, max_size=4))
def test_a_printed_option_means_its_labels(labels):
    parser = argparse.ArgumentParser()
    add_labels(parser)
    printed = " ".join(option("--structure-label", labels).split())
    typed = parser.parse_args(shlex.split(printed)).structure_label
    assert sorted(" ".join(name.split()) for name in typed) == sorted(" ".join(name.split()) for name in labels)


@given(NAMES)
def test_any_name_means_something(name):
    assert meaning_of(name) in Meaning


@pytest.mark.parametrize("name", ["normal lymph node", "healthy control", "normal breast", "normal uptake"])
def test_normal_without_lung_is_not_taken_for_normal_lung_in_silence(name):
    with pytest.raises(BadInput, match="may mean normal lung|means a structure"):
        roles(name, "tumor")
    assert roles(name, "tumor", normal=[name]).normal == (name,)


@pytest.mark.parametrize(
    ("names", "given"),
    [(("lung", "normal?"), ()), (("lung", "healthy tissue lung"), ("lung",)), (("left lung", "lung"), ("left lung",))],
)
def test_a_pathology_whose_name_reads_as_lung_can_be_renamed_as_the_message_says(names, given):
    with pytest.raises(BadInput) as refused:
        roles(*names, normal=given)
    new = re.search(r"rename it in dataset.json, for example to '(.+)'$", str(refused.value))
    assert new is not None
    assert new[1].endswith(" lesion")
    renamed = [new[1] if new[1] == f"{name} lesion" else name for name in names]
    assert roles(*renamed, normal=given or names[:1]).pathologies == (new[1],)


def test_well_aerated_lung_is_offered_as_normal_lung_beside_poorly_aerated_lung():
    for names in (("poorly-aerated lung", "well-aerated lung"), ("hyperinflated", "normally aerated")):
        with pytest.raises(BadInput, match=f"give --normal-label '{names[1]}'$"):
            roles(*names)
