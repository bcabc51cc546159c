"""A few rounds of the sweep over forms of datasets, and that it can see what it looks for."""

from __future__ import annotations

import numpy as np

from tests.faults import sweep
from tests.faults.sweep import CHOICES, Said, draw, tree


def test_datasets_go_through_the_commands_or_are_refused():
    rows = sweep.campaign(5, seed=11, shown=False)
    assert len(rows) == 5
    found = sweep.faults(rows)
    assert not found, "\n".join(f"{row['number']}: {row['said']}" for row in found)  # pytest shortens rows
    assert "done" in {row["outcome"] for row in rows}


def test_every_choice_is_drawn():
    forms = [draw(np.random.default_rng([0, number])) for number in range(400)]
    for name, values in CHOICES.items():
        drawn = {getattr(form, name) for form in forms}
        assert set(values) <= drawn, name


def test_what_the_commands_leave_behind_would_be_seen(monkeypatch):
    monkeypatch.setattr(sweep, "remove", lambda: Said(0, ""))
    monkeypatch.setattr(sweep, "prepare", lambda: Said(0, ""))
    rows = sweep.campaign(3, seed=11, shown=False)
    done = [row for row in rows if row["outcome"] != "refused"]
    assert done
    assert all(row["outcome"] == "FAULT" and "after removal" in row["said"] for row in done)


def test_tree_sees_content_mode_and_links(tmp_path):
    (tmp_path / "a").write_text("1")
    before = tree(tmp_path)
    (tmp_path / "a").chmod(0o600)
    assert tree(tmp_path) != before
    (tmp_path / "a").chmod(0o644)
    (tmp_path / "b").symlink_to("a")
    assert tree(tmp_path).keys() - before.keys() == {"b"}
