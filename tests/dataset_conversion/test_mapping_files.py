"""Mapping files: what ``--list`` writes can be read again, whatever structures are called; what users write, too."""

from __future__ import annotations

import random

import pytest

from nnunet_difflung.dataset_conversion.pipeline.listing import write_first_mapping
from nnunet_difflung.dataset_conversion.pipeline.mapping import parse_mapping, read_mapping
from nnunet_difflung.dataset_conversion.sources import Listing
from nnunet_difflung.errors import BadInput

ODD = [
    *("yes", "no", "Yes", "NO", "on", "off", "null", "Null", "~", "true", "False", "1e3", "1", "0x10", "0o7", "1_000"),
    *("2021-01-01", "12:30:45", ".inf", ".nan", "-", "- lung", "? a", ": b", "a: b", "a #b", "#b", "'q'", '"d"', "[x]"),
    *(
        "{y}",
        "&anchor",
        "*alias",
        "!tag",
        "|",
        ">",
        "%TAG",
        "@at",
        "`tick`",
        "=",
        "<<",
        "---",
        "...",
        "\\d+",
        "C:\\ROI",
    ),
    *(
        "Lung (L)",
        "GTV+",
        "GTV^1",
        "a|b",
        "$x",
        "tab\there",
        "line\nbreak",
        "\ufeffbom",
        "\x85next",
        "\u2028sep",
        "\x07",
    ),
    *("Mu\u0308ller", "Müller", "左肺", "ümlaut", "😀", "\u0130", "ſ", "ı", "K", "normal lung", "ignore", "background"),
    *("label 1", "value -1", "lesions value -2", "  blanks  ", "structure", "labels", "lung", "x" * 3000),
]


def listed(names):
    return [Listing("p1", (), (1, 1, 1), (1.0, 1.0, 1.0), "", (-1000.0, 500.0), tuple(names))]


def read_again(tmp_path, names):
    path = tmp_path / "map.yaml"
    path.unlink(missing_ok=True)
    write_first_mapping(path, listed(names))
    mapping = read_mapping(path)
    mapping.check(names, "archive")
    return mapping


@pytest.mark.parametrize("name", ODD)
def test_a_structure_of_any_name_can_be_read_again(tmp_path, name):
    mapping = read_again(tmp_path, [name])
    assert mapping.rule_of(name) is not None


def test_random_names_can_be_read_again(tmp_path):
    rng = random.Random(0)
    letters = "aAbLl01 _-.:#'\"[]{}()+*?^$|\\/%&!@~<>=,;\t\nüßéſ左\u0301\u00a0"
    for _ in range(10):
        names = {"".join(rng.choices(letters, k=rng.randint(1, 8))) for _ in range(50)}
        names = sorted({*names, *rng.sample(ODD, 5)})
        mapping = read_again(tmp_path, names)
        for name in names:
            assert mapping.rule_of(name) is not None


def test_expressions_match_whole_names_literally(tmp_path):
    mapping = read_again(tmp_path, ["Lung (L)", "GTV+", "a.b"])
    with pytest.raises(BadInput, match="matches no label"):
        mapping.rule_of("Lung L")
    with pytest.raises(BadInput, match="matches no label"):
        mapping.rule_of("GTVV")
    with pytest.raises(BadInput, match="matches no label"):
        mapping.rule_of("axb")
    with pytest.raises(BadInput, match="matches no label"):
        mapping.rule_of("GTV+ 2")


def test_marks_and_ignore_become_the_ignore_label(tmp_path):
    mapping = read_again(tmp_path, ["lung", "value -1", "ignore"])
    assert mapping.labels == {"background": 0, "normal_lung": 1, "ignore": 2}
    assert mapping.rule_of("value -1").value == 2


GOOD = 'labels:\n  lung: ["Lunge ä"]\n'


@pytest.mark.parametrize(
    "content",
    [
        GOOD.encode(),
        GOOD.encode("utf-8-sig"),
        GOOD.replace("\n", "\r\n").encode(),
        GOOD.encode("utf-16"),
        GOOD.replace("ä", "a\u0308").encode(),
    ],
)
def test_text_files_of_all_systems_are_read(tmp_path, content):
    (tmp_path / "map.yaml").write_bytes(content)
    mapping = read_mapping(tmp_path / "map.yaml")
    assert mapping.rule_of("Lunge ä").label == "lung"
    assert mapping.rule_of("Lunge a\u0308").label == "lung"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD.encode("latin-1"), "not in UTF-8 .*save it as UTF-8"),
        (b"labels:\n\tlung: [a]\n", "blanks instead of tabs"),
        (b"labels:\n  lung: [a]\n  lung: [b]\n", "'lung' is listed twice"),
        (b"labels:\n  yes: [a]\n", "label True: .*in quotes"),
        (b"labels:\n  1: [a]\n", "label 1: .*in quotes"),
        (b"labels:\n  ? [a]\n  : [b]\n", "is not a name"),
        (b"labels:\n  lung: [yes]\n", "regular expressions in quotes"),
        (b"labels:\n  lung: [2001-99-99]\n", "is not valid YAML"),
        (b"labels:\n  lung: [!!int x]\n", "is not valid YAML"),
        (b"labels:\n  lung: {structures: [a], priority: .nan}\n", "nan is not a number"),
        (b"labels: " + b"[" * 3000, "nested too deeply|is not valid YAML"),
        (b"labels:\n  lung: ['GTV+*']\n", "backslash"),
        (b"labels:\n  lung: ['a{99999999999}']\n", "regular expression"),
        (b"\x00\x01", "is not valid YAML"),
        (b"", "'labels:' is missing"),
        (b"- a\n", "'labels:' is missing"),
        (b"labels: &x\n  lung: *x\n", "regular expressions in quotes|unknown key|is not valid"),
    ],
)
def test_a_faulty_file_is_refused_in_one_line(tmp_path, content, message):
    (tmp_path / "map.yaml").write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_mapping(tmp_path / "map.yaml")


def test_negative_values_are_no_structures():
    mapping = parse_mapping({"labels": {"lung": [".*"]}})
    with pytest.raises(BadInput, match="matched by lung; negative values mark .*ignore_label"):
        mapping.rule_of("value -1")
    with pytest.raises(BadInput, match="'value -1'; add it .*ignore_label"):
        parse_mapping({"labels": {"lung": ["label.*"]}}).check(["label 1", "value -1"], "archive")
    mapping = parse_mapping({"labels": {"lung": ["label.*"]}, "ignore_label": ["value.*"]})
    assert mapping.rule_of("value -1").label == "ignore"
    assert parse_mapping({"labels": {"a": ["b"]}, "ignore_structures": ["value -1"]}).rule_of("value -1") is None
