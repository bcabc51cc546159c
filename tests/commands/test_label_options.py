"""``--normal-label``, ``--structure-label``, ``--target-share`` as people type them, and what is said about labels."""

from __future__ import annotations

import json
import unicodedata

import numpy as np
import pytest

from nnunet_difflung.commands.augment import main, parse, request_from
from nnunet_difflung.commands.remove import main as remove
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.errors import BadInput
from nnunet_difflung.injection.manifest import read_manifest
from nnunet_difflung.pipeline.roles import with_present_roles
from tests.support.commands import synthetic_arrays
from tests.support.lungs import APART, lungs_apart, relabel
from tests.support.tiny import LABELS, make_dataset, tree_hashes

pytestmark = pytest.mark.usefixtures("fingerprint")
COPY = ["-d", "801", "--method", "copy_paste", "--gate", "report", "-device", "cpu", "-f", "0", "--max-synthetic", "3"]
HEART, TISSUE = 4, 5


def with_anatomy(folder, names=("heart", "tissue 7")):
    """Adds two labels between the lungs: one that touches both, and one that touches neither."""

    def change(label: np.ndarray) -> np.ndarray:
        new, middle = label.copy(), label.shape[2] // 2
        rows = slice(label.shape[1] // 2 - 3, label.shape[1] // 2 + 4)
        gap = new[:, rows, middle - 6 : middle + 6]
        gap[(gap == 0) & (np.arange(gap.shape[1]) < 3)[:, None]] = HEART
        new[:, rows.stop : rows.stop + 5, middle - 1 : middle + 1] = TISSUE
        return new

    return relabel(folder, {**LABELS, names[0]: HEART, names[1]: TISSUE}, change)


@pytest.mark.parametrize(
    "typed",
    [
        [],
        ["--normal-label", "left lung", "right lung"],
        ["--normal-label=right lung", "--normal-label", "left lung"],
    ],
    ids=str,
)
def test_lesions_are_pasted_into_both_lungs(folders, typed, capsys):
    folder = lungs_apart(make_dataset(folders[0], patients=4, folds=2))
    before = tree_hashes(folder)
    main([*COPY, *typed, "--target-share", "emphysema=0.2", "--target-share", "ILD=0.4"])
    assert "normal lung is 'left lung' and 'right lung', pathologies are 'emphysema', 'ILD'" in capsys.readouterr().out
    raw, manifest, replaced = open_raw_dataset("801"), read_manifest(folder), set()
    assert manifest["runs"][0]["settings"]["balance"]["target_share"] == {"emphysema": 0.2, "ILD": 0.4}
    for identifier, record in manifest["cases"].items():
        image, label = synthetic_arrays(raw, identifier, folder)
        host, real = raw.read_label(record["host"])[0], raw.read_image(record["host"])[0]
        changed = label != host
        assert set(np.unique(label[changed])) <= {APART["emphysema"], APART["ILD"]}
        assert not ((image != real).any(0) & ~np.isin(host, (1, 2))).any()
        replaced |= set(np.unique(host[changed]).tolist())
    assert replaced == {APART["left lung"], APART["right lung"]}
    assert all(tree_hashes(folder)[path] == digest for path, digest in before.items() if "Tr/" in path)


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_pathology_outside_the_lung_is_a_warning(folders, dry_run, capsys):
    with_anatomy(make_dataset(folders[0], patients=4, folds=2, size=48))
    main([*COPY, *dry_run])
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Warning: '")]
    assert len(warnings) == 2
    assert warnings[0].startswith("Warning: 'heart' is taken as a pathology")
    assert warnings[0].endswith("add --structure-label heart")
    assert warnings[1].startswith("Warning: 'tissue 7' (0.0% of its outline) hardly touches normal lung")
    assert warnings[1].endswith("add --structure-label 'tissue 7'")
    if not dry_run:
        return
    main([*COPY, "--dry-run", "--structure-label", "heart", "--structure-label", "tissue 7"])  # as both warnings say
    captured = capsys.readouterr()
    assert "Warning: '" not in captured.err
    assert "structures are 'heart', 'tissue 7'" in captured.out


def test_names_with_anything_in_them_are_understood(folders, capsys):
    names = ["ILD / Fibrose = 'schwer'", unicodedata.normalize("NFD", "肺气肿 emphysème"), "-dash $x^$", "../../up"]
    labels = {"background": 0, "normal lung (gesund)": 1, **{name: i for i, name in enumerate(names, 2)}}
    folder = relabel(make_dataset(folders[0], patients=4, folds=2), labels, lambda label: label)
    (folder / "dataset.json").write_text(
        json.dumps(json.loads((folder / "dataset.json").read_text()), ensure_ascii=False), encoding="utf-8"
    )
    outside = set(folders[0].parent.rglob("*"))
    shares = {names[0]: 0.2, unicodedata.normalize("NFC", names[1]): 0.3, names[2]: 0.04}
    targets = [f"--target-share={name}={share}" for name, share in shares.items()]
    main([*COPY, *targets, "--structure-label=../../up"])
    settings = read_manifest(folder)["runs"][0]["settings"]
    assert settings["balance"]["target_share"] == {names[0]: 0.2, names[1]: 0.3, names[2]: 0.04}
    new = set(folders[0].parent.rglob("*")) - outside
    assert all("up" not in p.name and "dash" not in p.name and "schwer" not in p.name for p in new)
    assert "structures are '../../up'" in capsys.readouterr().out


def test_a_structure_with_a_dash_is_suggested_as_it_must_be_typed(folders, capsys):
    with_anatomy(make_dataset(folders[0], patients=4, folds=2, size=48), ("-heart", "it's 7"))
    main([*COPY, "--dry-run"])
    said = capsys.readouterr().err
    assert "add --structure-label=-heart\n" in said
    assert "add --structure-label 'it'\"'\"'s 7'\n" in said
    main([*COPY, "--dry-run", "--structure-label=-heart", "--structure-label", "it's 7"])
    assert "Warning: '" not in capsys.readouterr().err


def test_other_roles_than_those_of_earlier_cases_are_refused(folders, capsys):
    lungs_apart(make_dataset(folders[0], patients=4, folds=2))
    targets = ["--target-share", "emphysema=0.3", "ILD=0.5"]
    main([*COPY, *targets, "--structure-label", "right lung"])
    capsys.readouterr()
    for fold in ("0", "1"):
        with pytest.raises(BadInput, match="'right lung' was no lung and is taken as lung now; run difflung_remove"):
            main([*COPY, *targets, "-f", fold])
    main([*COPY, *targets, "--structure-label", "right lung"])
    assert "nothing to do" in capsys.readouterr().out
    remove(["-d", "801"])
    main([*COPY, *targets, "--dry-run"])


@pytest.mark.parametrize(
    ("lung", "targets", "change"),
    [
        (["left lung", "right lung", "ILD"], ["right lung", "ILD"], "'right lung' was a pathology and is normal lung"),
        (["left lung", "right lung", "ILD", "heart"], ["ILD", "heart"], "'heart' was taken as lung and is none now"),
        (["left lung", "right lung", "ILD"], ["ILD"], None),
    ],
    ids=str,
)
def test_what_an_earlier_version_took_for_a_pathology_is_known(folders, lung, targets, change):
    labels = {"background": 0, "left lung": 1, "right lung": 2, "ILD": 3, "heart": 4}
    folder = relabel(make_dataset(folders[0], patients=4, folds=2), labels, lambda label: label)
    assert folder.is_dir()
    raw = open_raw_dataset("801", structure_labels=["heart"])
    summary = {"voxels_before": dict.fromkeys(lung, 9), "targets": dict.fromkeys(targets, 0.1)}
    run = {"method": "cbmat", "fold": 0, "summary": summary}
    manifest = {"runs": [run], "cases": {"difflung_x": {"method": "cbmat", "fold": 0}}}
    if change is None:
        assert with_present_roles(raw, manifest) == manifest
    else:
        with pytest.raises(BadInput, match=change):
            with_present_roles(raw, manifest)
    nothing_added = with_present_roles(raw, {**manifest, "cases": {}})
    assert nothing_added is not None
    assert nothing_added["runs"] == ([run] if change is None else [])


def test_a_fold_to_which_nothing_was_added_with_other_roles_is_done_anew(folders, capsys):
    labels = {"background": 0, "lung": 1, "non-healthy": 2, "ILD": 3}
    folder = relabel(make_dataset(folders[0], patients=4, folds=2), labels, lambda label: label)
    main([*COPY, "--target-share", "ILD=0", "--structure-label", "non-healthy"])
    assert "nothing to add" in capsys.readouterr().out
    assert not read_manifest(folder)["cases"]
    main([*COPY, "--target-share", "ILD=0"])
    assert read_manifest(folder)["cases"]


def test_a_target_has_one_share(folders):
    make_dataset(folders[0], patients=4, folds=2)
    with pytest.raises(BadInput, match="names 'ILD' twice"):
        main([*COPY, "--target-share", "ILD=0.1", "--target-share", "ILD=0.2"])


def test_a_name_that_is_no_pathology_is_no_target(folders):
    lungs_apart(make_dataset(folders[0], patients=4, folds=2))
    with pytest.raises(BadInput, match="--target-share names 'right lung', which is not a pathology"):
        main([*COPY, "--target-share", "right lung=0.2"])


def test_the_request_has_the_names_of_the_dataset(folders):
    lungs_apart(make_dataset(folders[0], patients=4, folds=2))
    request = request_from(parse([*COPY, "--normal-label", "left lung", "--structure-label", "right lung"]))
    assert (request.normal_labels, request.structure_labels) == (("left lung",), ("right lung",))
