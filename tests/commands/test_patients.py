"""Who the patients are, as people say it to the commands: options, the file beside the dataset, records, warnings."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_difflung.audit.audit import audit, audit_dataset
from nnunet_difflung.commands.augment import entry, main
from nnunet_difflung.commands.evaluate import entry as evaluate
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.injection.manifest import read_manifest
from tests.support.tiny import make_dataset, tree_hashes

RUN = shlex.split("-d 801 --preset fast --method copy_paste --gate report -device cpu --max-synthetic 3")
TRUE = "(.+)[0-9]{2}"

pytestmark = pytest.mark.usefixtures("fingerprint")


def genius(name: str) -> str:
    """``lung_001_s00`` as ``genius_0100``: two time points of each patient."""
    return re.sub(r"lung_0(..)_s(..)", r"genius_\1\2", name)


def renamed(folder: Path, name: Callable[[str], str]) -> Path:
    for part in ("imagesTr", "labelsTr"):
        for path in (folder / part).iterdir():
            path.rename(path.with_name(name(path.name)))
    return folder


@pytest.fixture
def ambiguous(raw_folder):
    return renamed(make_dataset(raw_folder, patients=4, splits=False), genius)


def stopped(*words: str) -> int:
    with pytest.raises(SystemExit) as stop:
        entry([*RUN, *words])
    return stop.value.code


def cut(folder: Path) -> None:
    """Two folds that have the first time points in training and the second ones in validation, and the reverse."""
    ids = sorted(path.name.removesuffix(".nii.gz") for path in (folder / "labelsTr").iterdir())
    parts = [ids[0::2], ids[1::2]]
    splits = [{"train": parts[k], "val": parts[1 - k]} for k in (0, 1)]
    (folder / "splits_final.json").write_text(json.dumps(splits))


def test_ambiguous_ids_are_refused_and_a_pasted_candidate_is_accepted(ambiguous, folders, capsys):
    before = tree_hashes(*folders)
    assert stopped() == 2
    first, *lines = capsys.readouterr().err.splitlines()
    assert first.startswith("Error: the patients cannot be told from the 8 case ids of Dataset801_Tiny")
    options = [line.strip() for line in lines if "--patient-pattern" in line]
    assert f"--patient-pattern {shlex.quote(TRUE)}" in options
    assert "--patient-pattern '(.+)'" in options
    for option, patients in ((f"--patient-pattern {shlex.quote(TRUE)}", 4), ("--patient-pattern '(.+)'", 8)):
        main([*RUN, "--dry-run", *shlex.split(option)])
        assert f"8 real cases of {patients} patients" in capsys.readouterr().out
    assert tree_hashes(*folders) == before, "a dry run records nothing"


def test_what_was_said_once_holds_for_later_commands_and_after_removal(ambiguous, folders, capsys):
    main([*RUN, "-f", "0", "--patient-pattern", TRUE])
    main([*RUN, "-f", "1"])
    manifest = read_manifest(ambiguous)
    assert manifest["reading"] == {"from": "pattern", "pattern": TRUE, "patients": 4}
    assert set(manifest["patients"].values()) == {f"genius_0{p}" for p in range(1, 5)}
    assert audit_dataset("Dataset801_Tiny", deep=True) == []
    report = json.loads((folders[2] / "Dataset801_Tiny" / "DiffLung__copy_paste" / "augment_report.json").read_text())
    assert report["patients"] == manifest["reading"]
    capsys.readouterr()
    assert stopped("-f", "2", "--patient-pattern", "(.+)") == 2
    refusal = capsys.readouterr().err
    assert "gives other patients (8) than" in refusal
    remedy = refusal.strip().split("start anew: ")[1].split()
    assert remedy[0] == "difflung_remove"
    remove(["-d", "801"])
    assert open_raw_dataset("801").patients == manifest["patients"]
    remove(remedy[1:])
    main([*RUN, "-f", "2", "--patient-pattern", "(.+)"])
    assert len(set(read_manifest(ambiguous)["patients"].values())) == 8


def test_a_file_of_patients(ambiguous, tmp_path, capsys):
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (ambiguous / "labelsTr").iterdir())
    table = tmp_path / "who.csv"
    table.write_text("case;patient\n" + "".join(f"{case};{case[:9]}\n" for case in cases))
    main([*RUN, "--dry-run", "--patients", str(table)])
    output = capsys.readouterr().out
    assert "8 real cases of 4 patients" in output
    assert "Note:" not in output
    table.write_text(table.read_text() + "old;p\nunseen_00;p\n")
    (ambiguous / "imagesTs").mkdir()
    (ambiguous / "imagesTs" / "unseen_00_0000.nii.gz").touch()
    main([*RUN, "--dry-run", "--patients", str(table)])
    note = f"Note: {table} lists 'old', which is not a case of Dataset801_Tiny (1 such rows)."
    assert capsys.readouterr().out.splitlines()[0] == note
    assert stopped("--patients", str(table), "--patient-pattern", "(.+)") == 2
    assert "not allowed with" in capsys.readouterr().err
    (ambiguous / "patients.json").write_text(json.dumps({case: case[:9] for case in cases}))
    main([*RUN, "-f", "0"])
    assert read_manifest(ambiguous)["reading"]["file"] == "Dataset801_Tiny/patients.json"
    (ambiguous / "patients.json").write_text(json.dumps({case: case[:9] for case in cases[1:]}))
    capsys.readouterr()
    assert stopped("-f", "1") == 2
    assert f"patients.json does not list case {cases[0]!r}" in capsys.readouterr().err


def test_patients_json_that_is_corrected_later_is_seen(ambiguous, folders, capsys):
    file = ambiguous / "patients.json"
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (ambiguous / "labelsTr").iterdir())
    right, wrong = {case: case[:9] for case in cases}, {case: case for case in cases}
    file.write_text(json.dumps(wrong))
    main([*RUN, "-f", "0"])
    assert audit("Dataset801_Tiny").problems == ()
    file.write_text(json.dumps(right))
    (problem,) = (problem.text for problem in audit("Dataset801_Tiny").problems)
    assert f"{file} says that genius_0100 and genius_0101 are of one patient" in problem
    capsys.readouterr()
    assert stopped("-f", "1") == 2
    assert "restore the file as it was, or start anew: difflung_remove" in capsys.readouterr().err
    file.write_text(json.dumps(wrong))
    assert audit("Dataset801_Tiny").problems == ()
    remove(["-d", "801", "--generators"])
    file.write_text(json.dumps(right))
    main([*RUN, "-f", "0", "--patient-pattern", "(.+)"])
    result = audit("Dataset801_Tiny")
    assert result.problems == (), "an option counts more than the file"
    assert "are of one patient, but the synthetic cases were made as if of two, as an option said" in result.notes[0]


def test_folds_that_cut_a_plausible_patient_are_warned_of_first_and_last(ambiguous, folders, capsys):
    cut(ambiguous)
    main([*RUN, "-f", "0", "--dry-run"])
    dry = capsys.readouterr().out.splitlines()
    main([*RUN, "-f", "0"])
    lines = capsys.readouterr().out.splitlines()
    warning = f"Warning: {ambiguous / 'splits_final.json'} seems to have patients in training and in validation"
    for output in (dry, lines):
        assert output[0].startswith(warning)
        assert output[-1] == output[0]
    reading = read_manifest(ambiguous)["reading"]
    assert reading["from"] == "splits"
    assert f"Warning: {reading['warning']}" == lines[0]
    report = json.loads((folders[2] / "Dataset801_Tiny" / "DiffLung__copy_paste" / "augment_report.json").read_text())
    assert report["patients"]["warning"] == reading["warning"]
    (note,) = audit("Dataset801_Tiny").notes
    assert "seems to have patients in training and in validation" in note
    assert shlex.quote(TRUE) in note
    main([*RUN, "-f", "0", "--dry-run", "--patient-pattern", "(.+)"])
    assert "Warning" not in capsys.readouterr().out
    assert stopped("-f", "0", "--patient-pattern", TRUE) == 2


def test_it_is_said_and_recorded_how_ids_were_read(raw_folder, capsys):
    folder = make_dataset(raw_folder, patients=4, splits=False)
    main([*RUN, "-f", "0"])
    how = "lung_001_s00 → lung_001, lung_001_s01 → lung_001, lung_002_s00 → lung_002"
    assert f"Patients: 4, read from the ids, such as {how};" in capsys.readouterr().out
    assert read_manifest(folder)["reading"] == {
        "from": "ids",
        "patients": 4,
        "examples": {"lung_001_s00": "lung_001", "lung_001_s01": "lung_001", "lung_002_s00": "lung_002"},
    }


def test_folds_of_subjects_are_not_refused_for_the_name_of_their_site(raw_folder, capsys):
    """``_s001`` may number the subjects of a site, which the folds of a split file may mix."""
    folder = make_dataset(raw_folder, patients=4, splits=False)
    renamed(folder, lambda name: re.sub("lung_00(.)_s0(.)", r"site\2_s00\1", name).replace("site0", "mayo1"))
    for path in folder.glob("*Tr/site1*"):
        path.rename(path.with_name(path.name.replace("site1", "insel2")))
    assert stopped("--dry-run") == 2
    assert "('insel2' may be the name of a site or of a collection)" in capsys.readouterr().err
    cut(folder)
    main([*RUN, "-f", "0", "--dry-run"])
    assert "8 real cases of 8 patients" in capsys.readouterr().out


def test_unambiguous_ids_that_given_folds_cut_are_refused(raw_folder, capsys):
    folder = make_dataset(raw_folder, patients=4, splits=False)
    cut(folder)
    assert stopped("-f", "0") == 2
    assert "has patient 'lung_001' in training and in validation" in capsys.readouterr().err


@pytest.mark.parametrize("patients", [1, 2])
def test_very_few_patients(patients, raw_folder, capsys):
    make_dataset(raw_folder, patients=patients, splits=False)
    if patients == 1:
        assert stopped("--dry-run") == 2
        assert "all 2 cases belong to one patient (lung_001)" in capsys.readouterr().err
    else:
        main([*RUN, "--dry-run"])
        output = capsys.readouterr().out
        assert "4 real cases of 2 patients" in output
        assert "fold 1: 2 training cases" in output
        assert "fold 2" not in output


def test_evaluate_knows_the_patients_as_augment_does(ambiguous, capsys):
    words = ["-d", "801", "-f", "0", "-device", "cpu"]
    for option, message in (
        ([], "Error: the patients cannot be told from the 8 case ids of Dataset801_Tiny"),
        (["--patients", "nowhere.csv"], "Error: nowhere.csv cannot be read"),
        (["--patient-pattern", TRUE], "has no finished generator of fold 0"),
    ):
        with pytest.raises(SystemExit) as stop:
            evaluate([*words, *option])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err.splitlines()[0]
    open_raw_dataset("801", patient_pattern=TRUE).reading.record("Dataset801_Tiny")
    with pytest.raises(SystemExit):
        evaluate(words)
    assert "has no finished generator of fold 0" in capsys.readouterr().err
