"""Who may read what: nothing made from a dataset is more readable than the dataset, whatever the umask."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from nnunet_difflung.commands.augment import main
from nnunet_difflung.dataset.privacy import as_private_as
from nnunet_difflung.dataset.raw_dataset import open_raw_dataset
from nnunet_difflung.dataset.writing import copy_sidecar
from nnunet_difflung.injection.inject import inject
from nnunet_difflung.injection.removal import remove
from nnunet_difflung.runtime.files import copy_file, write_json
from nnunet_difflung.runtime.modes import make_folder, readable_like
from tests.support.modes import mode, open_to, set_modes, umask
from tests.support.snapshot import changed, snapshot
from tests.support.staging import stage_cases
from tests.support.tiny import make_dataset, write_fingerprint

pytestmark = [pytest.mark.usefixtures("no_fsync"), pytest.mark.skipif(os.name != "posix", reason="POSIX modes")]
SMALL = {"patients": 4, "slices": 1, "size": 16, "folds": 2}
GROUP, OTHERS = 0o040, 0o004
OPTIONS = ["-d", "801", "-f", "0", "--method", "copy_paste", "--preset", "fast", "--gate", "off"]
OPTIONS += ["-device", "cpu", "--max-synthetic", "3"]
MASKS = pytest.mark.parametrize("mask", [0, 0o022, 0o077], ids=oct)


def _synthetic(folder: Path) -> list[Path]:
    return sorted(folder.glob("*Tr/difflung_*"))


@pytest.mark.parametrize(
    ("mask", "files", "folder"),
    [(0, 0o600, 0o755), (0o022, 0o640, 0o750), (0, 0o644, 0o700), (0o077, 0o400, 0o755)],
    ids=lambda value: f"{value:o}",
)
def test_nothing_that_augmenting_makes_is_more_readable_than_the_cases(folders, mask, files, folder):
    mine = make_dataset(folders[0])
    write_fingerprint(folders[1])
    set_modes(mine, files, folder)
    before, closed = snapshot(mine, folders[1]), [bits for bits in (GROUP, OTHERS) if not open_to(mine, bits)]
    with umask(mask):
        assert main(OPTIONS) == 0
        assert os.umask(mask) == mask
        written = _synthetic(mine)
        assert len(written) >= 2
        for bits in closed:
            assert open_to(mine, bits) == []
            assert open_to(folders[2], bits) == []
            assert [path for path in open_to(folders[1], bits) if "fingerprint" not in path] == []
        assert {mode(path) & 0o077 & ~files for path in written} == {0}
        assert mode(mine / "dataset.json") == files
        assert mode(mine / "splits_final.json") == files
        remove("801", generators=True)
    assert changed(before, snapshot(mine, folders[1])) == []


@MASKS
def test_an_open_dataset_stays_as_open_as_the_umask_says(folders, mask):
    mine = make_dataset(folders[0], **SMALL)
    set_modes(mine, 0o644, 0o755)
    with umask(mask):
        inject(raw := open_raw_dataset("801"), *stage_cases(raw))
    for path in (*_synthetic(mine), mine / "difflung_manifest.json"):
        assert mode(path) == 0o644 & ~mask, path
    assert mode(mine / ".difflung") == 0o755 & ~mask


def test_a_shared_folder_of_a_group_stays_shared_whatever_the_umask(folders):
    mine = make_dataset(folders[0], **SMALL)
    group = next((g for g in os.getgroups() if g != os.getegid()), 12345 if os.geteuid() == 0 else None)
    if group is None:
        pytest.skip("needs a second group")
    for root, names, files in os.walk(mine):
        for path in (Path(root), *(Path(root, name) for name in (*names, *files))):
            os.chown(path, -1, group)
    set_modes(mine, 0o660, 0o2770)
    with umask(0o077):
        inject(raw := open_raw_dataset("801"), *stage_cases(raw, staged_in=folders[2]))
    for path in (*_synthetic(mine), mine / "dataset.json", mine / "splits_final.json", mine / "difflung_manifest.json"):
        assert mode(path) == 0o660, path
        assert path.stat().st_gid == group, path
    assert mode(mine / ".difflung") == 0o2770


def test_a_case_that_is_a_link_to_a_private_folder_makes_its_copies_private(folders, tmp_path):
    mine = make_dataset(folders[0], **SMALL)
    set_modes(mine, 0o644, 0o755)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    image = next(mine.glob("imagesTr/*"))
    shutil.move(image, private)
    image.symlink_to(private / image.name)
    with umask(0o022):
        inject(raw := open_raw_dataset("801"), *stage_cases(raw, staged_in=folders[2]))
        with as_private_as(mine, raw.files()):
            write_json(folders[2] / "new" / "a.json", {})
    assert mode(folders[2] / "new" / "a.json") == 0o600
    assert mode(folders[2] / "new") == 0o700


def test_one_private_case_is_enough(tmp_path):
    for name, bits in (("a", 0o644), ("b", 0o640), ("c", 0o604)):
        (tmp_path / name).touch()
        os.chmod(tmp_path / name, bits)
    into = [tmp_path / "into"]
    for names, expected in (("a", 0o644), ("ab", 0o640), ("abc", 0o600), ("", 0o644)):
        with umask(0o022), readable_like([tmp_path / name for name in (*names, "missing")], into):
            write_json(tmp_path / f"{names}.json", {})
        assert mode(tmp_path / f"{names}.json") == expected


def test_a_file_that_is_written_again_is_no_more_readable_than_before(tmp_path):
    with umask(0o022):
        write_json(tmp_path / "report.json", {})
        assert mode(tmp_path / "report.json") == 0o644
        os.chmod(tmp_path / "report.json", 0o600)
        write_json(tmp_path / "report.json", {"a": 1})
    assert mode(tmp_path / "report.json") == 0o600


@MASKS
def test_copies_and_new_folders_have_the_mode_of_their_model(tmp_path, mask):
    (tmp_path / "a.json").touch()
    (tmp_path / "model").mkdir()
    for bits in (0o600, 0o640, 0o644):
        os.chmod(tmp_path / "a.json", bits)
        os.chmod(tmp_path / "model", bits | 0o100 | (bits & 0o044) >> 2)
        for copy in (copy_file, copy_sidecar):
            with umask(mask):
                copy(tmp_path / "a.json", tmp_path / "b.json")
            assert mode(tmp_path / "b.json") == bits & ~mask
            (tmp_path / "b.json").unlink()
        with umask(mask):
            make_folder(tmp_path / "made", tmp_path / "model")
        assert mode(tmp_path / "made") == mode(tmp_path / "model") & ~mask
        (tmp_path / "made").rmdir()


def test_an_original_that_was_closed_since_stays_closed_when_it_comes_back(folders):
    mine = make_dataset(folders[0], **SMALL)
    set_modes(mine, 0o644, 0o755)
    inject(raw := open_raw_dataset("801"), *stage_cases(raw))
    os.chmod(mine / "dataset.json", 0o600)
    remove("801")
    assert mode(mine / "dataset.json") == 0o600
    assert mode(mine / "splits_final.json") == 0o644
