"""Tables in the docs that are made from the code: messages, presets."""

from __future__ import annotations

import pytest

from tests.installation import presets
from tests.installation.messages import PAGE, SECTIONS, messages, remedied, section, written


def test_the_page_has_the_messages_of_now():
    page = PAGE.read_text(encoding="utf-8")
    assert written(page) == page, "run: python -m tests.installation.messages"
    assert all(f"### {title}\n" in page for title in SECTIONS)


def test_messages_are_found_in_raised_errors_and_in_warnings():
    source = """
def f(path, n):
    warn(f"{path} is old; make it anew")
    if n:
        raise BadInput(f"{path}: {n} of {n} cases are missing; add them, or delete {path}")
    raise Failed("all were dropped" f" ({n})")
    raise ValueError("not for users")
    raise BadInput(f"{path}: {n}")
"""
    assert sorted(messages(source)) == [
        ("error", "all were dropped (…)"),
        ("error", "…: … of … cases are missing; add them, or delete …"),
        ("warning", "… is old; make it anew"),
    ]
    assert ("error", "not for users") in messages(source, ("ValueError",))
    assert remedied("bad; worse; do it") == ("bad; worse", "do it")
    assert remedied("…: …; leave it out") == ("…: …; leave it out", "")
    assert remedied("nothing to do") == ("nothing to do", "")


@pytest.mark.parametrize(
    ("module", "title"),
    [
        ("paths", "Folders, datasets and labels"),
        ("commands.demo", "The demo"),
        ("commands.options", "Device, files, packages, options"),
    ],
)
def test_the_longest_name_decides(module, title):
    assert section(module) == title


def test_the_table_of_presets_has_the_values_of_now():
    page = presets.PAGE.read_text(encoding="utf-8")
    assert presets.written(page) == page, "run: python -m tests.installation.presets"
    found = {row[0]: row[1:] for row in presets.rows()}
    assert found["`--epochs`"] == ["200", "120", "400"]
    assert found["`--method`"] == ["difflung", "difflung", "cbmat"]
    assert found["channels"][2] == "128, 128, 256, 256, 512, 512"
