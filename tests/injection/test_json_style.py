"""A user's JSON files keep their form where their content does not change, and are read in every usual encoding."""

from __future__ import annotations

import codecs
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.injection.inject import inject
from nnunet_difflung.injection.json_style import in_style_of
from nnunet_difflung.injection.removal import remove
from nnunet_difflung.runtime.files import json_bytes, read_json
from tests.support.snapshot import changed, snapshot
from tests.support.staging import stage_cases
from tests.support.tiny import make_dataset

pytestmark = pytest.mark.usefixtures("no_fsync")
SMALL = {"patients": 4, "slices": 1, "size": 16, "folds": 2}
DESCRIBED = {
    "description": "Köln, Müller & Söhne – 肺",
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "normal_lung": 1, "emphysema": 2, "ILD": 3},
    "numTraining": 4,
    "file_ending": ".nii.gz",
    "spacing_used": [0.80, 1e3, 5.0],
}
STYLES = {
    "escapes, indent 4": json.dumps(DESCRIBED, indent=4),
    "raw, indent 2, line end": json.dumps(DESCRIBED, indent=2, ensure_ascii=False) + "\n",
    "one line": json.dumps(DESCRIBED),
    "compact": json.dumps(DESCRIBED, separators=(",", ":")),
    "tabs and CRLF": json.dumps(DESCRIBED, indent="\t").replace("\n", "\r\n"),
    "sorted": json.dumps(DESCRIBED, indent=4, sort_keys=True),
    "by hand": (
        '{ "description" : "K\\u00F6ln \\/ x",\n\n  "channel_names":{"0":"CT"},  "numTraining"   :4,\n'
        '"labels": {"background": 0, "normal_lung": 1,\n  "emphysema": 2, "ILD": 3}, "a": 1.50,\n'
        '  "file_ending": ".nii.gz"  }\n\n\n'
    ),
}


@pytest.mark.parametrize("style", STYLES)
def test_only_the_number_of_cases_changes_in_dataset_json(folders, style):
    mine = make_dataset(folders[0], **SMALL)
    original = STYLES[style].encode()
    (mine / "dataset.json").write_bytes(original)
    before = snapshot(*folders)
    inject(raw := open_raw_dataset("801"), *stage_cases(raw))
    written = (mine / "dataset.json").read_bytes()
    assert written == re.sub(rb'("numTraining"\s*:\s*)4', rb"\g<1>6", original)
    remove("801")
    assert changed(before, snapshot(*folders)) == []


@pytest.mark.parametrize("style", STYLES)
def test_without_the_hidden_folder_the_form_comes_back_too(folders, style):
    mine = make_dataset(folders[0], **SMALL)
    original = STYLES[style].encode()
    (mine / "dataset.json").write_bytes(original)
    splits = (mine / "splits_final.json").read_text().replace(": ", " :  ").replace("\n    ", "\n\n ")
    (mine / "splits_final.json").write_text(splits)
    inject(raw := open_raw_dataset("801"), *stage_cases(raw))
    shutil.rmtree(mine / ".difflung")
    lines = remove("801")
    assert (mine / "dataset.json").read_bytes() == original
    assert (mine / "splits_final.json").read_text() == splits
    assert not any("formatting" in line for line in lines)


@pytest.mark.parametrize("form", ["nnunet", "hand", "one line"])
def test_what_is_added_to_lists_is_written_as_what_stands_before_it(form):
    old = {
        "splits": [{"train": ["a", "b"], "val": ["c"]}],
        "dataset": {"a": {"images": ["a_0000.png"], "label": "a.png"}},
    }
    new = json.loads(json.dumps(old))
    new["splits"][0]["train"].append("difflung_1")
    new["splits"][0]["val"].append("é")
    new["dataset"]["difflung_1"] = {"images": ["x", "y"], "label": "z"}
    texts = {
        "nnunet": json.dumps(old, indent=4),
        "one line": json.dumps(old),
        "hand": '{"splits": [\n  {"train": ["a", "b"], "val": ["c"]}\n],\n"dataset": {\n'
        '  "a": {"images": ["a_0000.png"], "label": "a.png"}\n}}',
    }
    written = in_style_of(texts[form].encode(), new).decode()
    assert json.loads(written) == new
    assert written.isascii()
    if form == "hand":
        assert '["a", "b", "difflung_1"]' in written
        assert '"a.png"},\n  "difflung_1": {"images": ["x", "y"], "label": "z"}\n}}' in written
    else:
        assert written == json.dumps(new, indent=4 if form == "nnunet" else None)
    assert in_style_of(written.encode(), old).decode() == texts[form]


def test_what_has_no_style_to_follow_is_refused():
    for text in (b"\xff", b"[1"):
        with pytest.raises(ValueError, match=r"."):
            in_style_of(text, {"a": 1})
    assert in_style_of(b'{"a": 1, "a": 2}', {"a": 3}) == b'{"a": 1, "a": 3}'


def test_a_byte_order_mark_is_read_and_kept(folders):
    mine = make_dataset(folders[0], **SMALL)
    for name in ("dataset.json", "splits_final.json"):
        (mine / name).write_bytes(codecs.BOM_UTF8 + (mine / name).read_bytes())
    before = snapshot(*folders)
    inject(raw := open_raw_dataset("801"), *stage_cases(raw))
    assert (mine / "dataset.json").read_bytes().startswith(codecs.BOM_UTF8)
    assert read_json(mine / "dataset.json")["numTraining"] == 6
    remove("801")
    assert changed(before, snapshot(*folders)) == []


def _command(name: str, *arguments: str, locale: str) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    environment |= {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", f"nnunet_difflung.commands.{name}", *arguments],
        env=environment,
        capture_output=True,
        check=False,
        cwd=Path(__file__).resolve().parents[2],
    )


def test_datasets_are_read_in_every_locale(folders):
    mine = make_dataset(folders[0], **SMALL)
    labels = {**DESCRIBED["labels"], "Überblähung": 4}
    content = {**DESCRIBED, "labels": labels}
    (mine / "dataset.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    inject(raw := open_raw_dataset("801"), *stage_cases(raw))
    for name in ("audit", "remove"):
        done = _command(name, "-d", "801", locale="C")
        assert done.returncode == 0, done.stderr.decode()
    assert json.loads((mine / "dataset.json").read_bytes()) == content


def test_a_latin_1_file_is_one_line(folders):
    mine = make_dataset(folders[0], **SMALL)
    (mine / "dataset.json").write_bytes(json.dumps(DESCRIBED, ensure_ascii=False).replace("肺", "").encode("cp1252"))
    done = _command("augment", "-d", "801", "--dry-run", "-device", "cpu", locale="C")
    error = done.stderr.decode()
    assert done.returncode == 2
    assert error.count("\n") == 1
    assert "dataset.json is not valid JSON (it is not UTF-8: byte 0xf6 at position" in error


def test_names_of_files_that_are_not_utf_8_can_be_written_and_read(tmp_path):
    name = os.fsdecode(b"/data/K\xf6ln.csv")
    (tmp_path / "a.json").write_bytes(json_bytes({"file": name}))
    assert read_json(tmp_path / "a.json") == {"file": name}
