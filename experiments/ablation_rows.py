"""The file of ``ablations.py``: a row for each variant that holds an entry for each seed."""

from __future__ import annotations

import json
from pathlib import Path

from nnunet_difflung.injection.dataset_lock import locked
from nnunet_difflung.runtime.files import json_bytes, read_json, write_json


def add_row(path: Path, name: str, key: str, wanted: dict, result: dict, about: dict) -> None:
    """Writes a variant's row for one seed; several processes, each with its own seed, may share the file."""
    with locked(path.parent):
        content = read_json(path) if path.is_file() else {"rows": {}}
        row = content["rows"].get(name, {})
        content["rows"][name] = {**(row if row.get("wanted") == wanted else {}), "wanted": wanted, key: result}
        write_json(path, {**content, "meta": about})


def as_read(content: dict) -> dict:
    """The content as it reads back from a JSON file."""
    return json.loads(json_bytes(content))
