"""Tables in Markdown."""

from __future__ import annotations

from nnunet_difflung.pages.markdown import table_lines


def test_a_table_has_a_rule_below_its_head_and_a_line_for_each_row():
    assert table_lines(["arm", "Dice"], [["reference", "0.512"], ["difflung", "–"]]) == [
        "| arm | Dice |",
        "| --- | --- |",
        "| reference | 0.512 |",
        "| difflung | – |",
    ]
    assert table_lines(["", ""], []) == ["|  |  |", "| --- | --- |"]
