"""What the campaigns share: folders for one round, and what is recorded beside their rows."""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from nnunet_difflung.paths import PATH_VARIABLES
from nnunet_difflung.runtime.environment import machine, versions


@contextmanager
def nnunet_folders() -> Iterator[Path]:
    """A temporary folder with nnU-Net's three empty folders, which its variables name."""
    with tempfile.TemporaryDirectory() as folder:
        variables = {name: str(Path(folder) / name) for name in PATH_VARIABLES}
        for place in variables.values():
            Path(place).mkdir()
        with mock.patch.dict(os.environ, variables):
            yield Path(folder)


def meta(command: str) -> dict[str, Any]:
    """Where and when a campaign ran, and with what."""
    return {
        "command": command,
        "date": datetime.date.today().isoformat(),
        "versions": versions(),
        "machine": machine(),
    }
