"""What the campaigns share: folders for one round, and what is recorded beside their rows."""

from __future__ import annotations

import datetime
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from nnunet_difflung.paths import PATH_VARIABLES


@contextmanager
def nnunet_folders() -> Iterator[Path]:
    """A temporary folder with nnU-Net's three empty folders, which its variables name."""
    with tempfile.TemporaryDirectory() as folder:
        variables = {name: str(Path(folder) / name) for name in PATH_VARIABLES}
        for place in variables.values():
            Path(place).mkdir()
        with mock.patch.dict(os.environ, variables):
            yield Path(folder)


def meta(command: str) -> dict[str, str]:
    """Where and when a campaign ran."""
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "machine": f"{os.cpu_count()} CPU cores, {platform.machine()}",
    }
