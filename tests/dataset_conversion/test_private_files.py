"""Converted datasets are no more readable than the archive, and a converter replaces no links."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

import pytest

from nnunet_difflung.dataset_conversion import convert
from nnunet_difflung.dataset_conversion.output.staged_dataset import check_name, staged_dataset
from nnunet_difflung.errors import BadInput
from tests.dataset_conversion.test_convert import mapping
from tests.support.archives import write_volumes
from tests.support.modes import mode, open_to, set_modes, umask
from tests.support.snapshot import changed, snapshot

pytestmark = pytest.mark.usefixtures("no_fsync", "unverified")
NAME = "Dataset810_Mine"


@pytest.mark.skipif(os.name != "posix", reason="POSIX modes")
@pytest.mark.parametrize(
    ("mask", "files", "folder", "expected"),
    [
        (0, 0o600, 0o755, 0o600),
        (0o022, 0o640, 0o755, 0o640),
        (0o022, 0o644, 0o700, 0o600),
        (0o077, 0o644, 0o755, 0o600),
    ],
    ids=lambda value: f"{value:o}",
)
def test_a_converted_dataset_is_no_more_readable_than_its_archive(tmp_path, raw_folder, mask, files, folder, expected):
    archive = tmp_path / "archive"
    write_volumes(archive, binary=True)
    chosen = Path(mapping(tmp_path, "names"))
    set_modes(archive, files, folder)
    before = snapshot(archive, folder_times=True)
    options = ["-i", str(archive), "--mapping", str(chosen), "-d", "810", "--name", "Mine", "-np", "1"]
    with umask(mask):
        assert convert.main(options) == 0
    written = [path for path in (raw_folder / NAME).rglob("*") if path.is_file()]
    assert {oct(mode(path)) for path in written} == {oct(expected)}
    if not expected & 0o004:
        assert open_to(raw_folder, 0o004) == []
    assert changed(before, snapshot(archive, folder_times=True)) == []


@pytest.mark.parametrize("place", [NAME, f".{NAME}.partial", f".{NAME}.old", f".{NAME}.lock"])
def test_a_link_in_the_place_of_a_dataset_is_refused_and_its_target_stays(tmp_path, raw_folder, place):
    theirs = tmp_path / "big disk"
    (theirs / "imagesTr").mkdir(parents=True)
    (theirs / "imagesTr" / "a_0000.nii.gz").write_text("precious")
    (theirs / "file").write_text("precious")
    (raw_folder / place).symlink_to(theirs / "file" if place.endswith("lock") else theirs)
    before = snapshot(raw_folder, theirs, folder_times=True)
    with pytest.raises(BadInput, match=r"is a link"), staged_dataset(NAME, overwrite=True, key="key"):
        raise AssertionError
    assert snapshot(raw_folder, theirs, folder_times=True) == before
    if not place.endswith("lock"):
        with pytest.raises(BadInput, match=r"delete the link \(rm "):
            check_name(NAME, overwrite=True)


def test_the_command_that_the_listing_prints_can_be_typed(tmp_path, capsys):
    write_volumes(tmp_path / "archive", patients=1)
    chosen = tmp_path / "my $HOME's mapping.yaml"
    assert convert.main(["-i", str(tmp_path / "archive"), "--list", "--mapping", str(chosen)]) == 0
    said = capsys.readouterr().out
    words = shlex.split(said[said.index("--mapping") :].partition(" -d ID")[0])
    assert words == ["--mapping", str(chosen)]
    shutil.rmtree(tmp_path / "archive")
