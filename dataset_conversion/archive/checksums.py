"""Verifies the checksums of compressed volumes, which ITK reads without looking at them.

A damaged compressed MetaImage file gives other voxels without an error, and so do some NRRD and gzipped label maps.
"""

from __future__ import annotations

import re
import zlib
from pathlib import Path
from typing import BinaryIO

from nnunet_difflung.dataset_conversion.archive.nifti_files import NIFTI, nifti_bytes, truncated
from nnunet_difflung.errors import BadInput

_CHUNK = 1 << 20
_HEADER = 1 << 16  # bytes; longest header of a MetaImage or NRRD file that is looked at
_MAGIC = b"\x1f\x8b"  # of gzip
_ZLIB, _GZIP = zlib.MAX_WBITS, zlib.MAX_WBITS | 16


def check_compressed(path: Path) -> None:
    """Decompresses what a volume file holds compressed, and forgets it.

    Raises:
        BadInput: the data are incomplete or their checksum is wrong.
    """
    with path.open("rb") as file:
        format_ = _to_data(file, path.name.lower())
        if format_ is None:
            return
        number = _decompressed(file, format_)
        if number is not None and path.name.lower().endswith(NIFTI) and number < (expected := nifti_bytes(path)):
            raise BadInput(truncated(path, number, expected))
        if number is None:
            raise BadInput(
                f"{path} cannot be read (the checksum of its compressed data is wrong); expected a complete image "
                f"file: copy it again"
            )


def _to_data(file: BinaryIO, name: str) -> int | None:
    """Moves to the compressed data of a file and returns their format; None if nothing in it is compressed."""
    head = file.read(_HEADER)
    start = 0
    format_ = _GZIP
    if name.endswith(".mha"):
        found = re.search(rb"^ElementDataFile *= *LOCAL *\r?\n", head, re.MULTILINE)
        if found is None or not re.search(rb"(?mi)^CompressedData *= *True", head[: found.end()]):
            return None
        start, format_ = found.end(), _ZLIB
    elif name.endswith(".nrrd"):
        found = re.search(rb"\r?\n\r?\n", head)
        if found is None or not re.search(rb"^encoding: *gz(ip)?\r?$", head[: found.end()], re.MULTILINE):
            return None
        start = found.end()
    file.seek(start)
    if format_ == _GZIP and file.read(2) != _MAGIC:
        return None
    file.seek(start)
    return format_


def _decompressed(file: BinaryIO, format_: int) -> int | None:
    """Number of bytes after decompression; None if the data are damaged.

    A gzip file may consist of several parts, each with its checksum; what follows them is ignored.
    """
    stream, number, rest = zlib.decompressobj(format_), 0, b""
    try:
        while True:
            chunk = rest or file.read(_CHUNK)
            if not chunk:
                return None
            number += len(stream.decompress(chunk, 8 * _CHUNK))
            rest = stream.unconsumed_tail
            if stream.eof:
                rest = stream.unused_data or file.read(_CHUNK)
                if format_ != _GZIP or not rest.startswith(_MAGIC):
                    return number
                stream = zlib.decompressobj(format_)
    except zlib.error:
        return None
