"""Whether the voxels of a volume are all in its file, undamaged, as far as its format can tell.

The usual readers fill what is missing with zeros and do not compare checksums, so that a download that broke off gives
an image whose last slices are empty. Here the voxels' bytes are counted, and compressed ones are compared with their
checksum (CRC-32 of gzip, RFC 1952; Adler-32 of zlib, RFC 1950). Formats: NIfTI-1 and NIfTI-2 (nifti.nimh.nih.gov), NRRD
(teem.sourceforge.net/nrrd/format.html), MetaImage (itk.org/Wiki/MetaIO).
"""

from __future__ import annotations

import bz2
import math
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

_PIECE = 1 << 20  # bytes read at a time
_GZIP = b"\x1f\x8b"
_NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(
        ("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"), 4
    ),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "int64", "int64_t", "double"), 8),
    **dict.fromkeys(("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), 8),
}
_META_TYPES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}


def damage(path: Path, quickly: bool = False) -> str:
    """What is wrong with the voxels in a file, for a message; "" if nothing is, or if the format cannot tell.

    Args:
        path: of a NIfTI, NRRD or MetaImage file, or any other.
        quickly: whether to look at the beginning and the end of a compressed NIfTI file only, which show in a tenth of
            a millisecond that the file broke off, but not that bytes in it were changed; other formats are left out.

    Raises:
        OSError: the file, or the file that it names for its voxels, cannot be read.
    """
    name = path.name.lower()
    try:
        if name.endswith((".nii", ".nii.gz")):
            return "" if quickly and _has_its_length(path) else _nifti(path)
        if quickly:
            return ""
        if name.endswith((".nrrd", ".nhdr")):
            return _nrrd(path)
        if name.endswith((".mha", ".mhd")):
            return _meta(path)
    except (zlib.error, EOFError) as error:
        return f"its compressed data are damaged: {error}"
    except (ValueError, struct.error, UnicodeDecodeError):
        return ""  # the header is faulty, which its reader says better
    return ""


def voxel_file(path: Path) -> Path | None:
    """The file beside a header that holds the voxels (``.mhd``, ``.nhdr``, ``.hdr``); None if the header's own does.

    None, too, if the voxels are in several files, or if the header cannot be read.
    """
    try:
        if path.suffix.lower() == ".hdr":
            return next((p for p in map(path.with_suffix, (".img", ".img.gz", ".IMG")) if p.is_file()), None)
        if path.suffix.lower() not in (".nrrd", ".nhdr", ".mhd"):
            return None
        head = b"".join(_first(path, 1 << 16))
        if path.suffix.lower() == ".mhd":
            named = re.search(rb"ElementDataFile[ \t]*=[ \t]*([^\r\n]*)", head)
        else:
            named = re.search(rb"^data ?file:[ =]?([^\r\n]*)", head.split(b"\n\n")[0], re.IGNORECASE | re.MULTILINE)
        file = path.parent / named[1].decode().strip() if named else path
        return file if file != path and file.is_file() else None
    except (OSError, ValueError):
        return None


def _pieces(path: Path, start: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while piece := file.read(_PIECE):
            yield piece


def _unpacked(pieces: Iterator[bytes], bits: int) -> Iterator[bytes]:
    """Decompresses zlib's formats; what follows the end of the data, such as padding, is left.

    Args:
        pieces: the compressed bytes.
        bits: 31 for gzip, 15 for zlib.

    Raises:
        zlib.error: the data are damaged.
        EOFError: they end too early.
    """
    decoder = zlib.decompressobj(bits)
    for piece in pieces:
        while piece:
            yield decoder.decompress(piece)
            piece = decoder.unused_data
            if decoder.eof:
                if bits != 31 or not piece.startswith(_GZIP):
                    return
                decoder = zlib.decompressobj(bits)  # a file of several parts
    if not decoder.eof:
        raise EOFError("the end is missing")


def _missing(pieces: Iterator[bytes], expected: int) -> str:
    """One line if fewer bytes than expected come; all are read, so that checksums are compared."""
    number = sum(len(piece) for piece in pieces)
    return f"{number} bytes of voxels, but {expected} are expected" if number < expected else ""


def _has_its_length(path: Path) -> bool:
    """Whether a compressed NIfTI file ends with the number of bytes (modulo 2³²) that its header promises."""
    with path.open("rb") as file:
        packed = file.read(1 << 12)
        if not packed.startswith(_GZIP):
            return False
        expected = _nifti_bytes(zlib.decompressobj(31).decompress(packed, 540))
        file.seek(-4, 2)
        return bool(struct.unpack("<I", file.read(4))[0] == expected % 2**32)


def _nifti(path: Path) -> str:
    with path.open("rb") as file:
        packed = file.read(2) == _GZIP
    first = b""
    pieces = _unpacked(_pieces(path, 0), 31) if packed else _pieces(path, 0)
    for piece in pieces:
        first += piece
        if len(first) >= 540:
            break
    expected = _nifti_bytes(first)

    def rest() -> Iterator[bytes]:
        yield first
        yield from pieces

    return _missing(rest(), expected)


def _nifti_bytes(header: bytes) -> int:
    """Bytes of a whole NIfTI file, from its header; voxels of a ``.hdr`` are elsewhere.

    Raises:
        ValueError: this is no NIfTI header.
        struct.error: it is too short.
    """
    for order in "<>":
        size = struct.unpack_from(f"{order}i", header)[0]
        if size == 348 and header[344:348] == b"n+1\0":
            dims, bits = struct.unpack_from(f"{order}8h", header, 40), struct.unpack_from(f"{order}h", header, 72)[0]
            start = struct.unpack_from(f"{order}f", header, 108)[0]
        elif size == 540:
            dims, bits = struct.unpack_from(f"{order}8q", header, 16), struct.unpack_from(f"{order}h", header, 14)[0]
            start = struct.unpack_from(f"{order}q", header, 168)[0]
        else:
            continue
        if not 1 <= dims[0] <= 7 or min(dims[1 : dims[0] + 1]) < 1 or not math.isfinite(start):
            raise ValueError("faulty dimensions")
        return int(start) + math.prod(dims[1 : dims[0] + 1]) * bits // 8
    raise ValueError("no NIfTI header")


def _fields(text: bytes, pattern: str) -> dict[str, str]:
    """Name, in small letters, → value of the lines of a text header."""
    lines = (re.match(pattern, line) for line in text.decode("latin-1").splitlines())
    return {match[1].strip().lower(): match[2].strip() for match in lines if match}


def _nrrd(path: Path) -> str:
    head = b"".join(_first(path, 1 << 16))
    end = re.search(rb"\r?\n\r?\n", head)
    fields = _fields(head[: end.start()] if end else head, r"([^:#]+):[ =]?(.*)")
    if {"byte skip", "line skip", "byteskip", "lineskip"} & fields.keys():
        return ""
    expected = math.prod(int(size) for size in fields["sizes"].split()) * _NRRD_TYPES.get(fields["type"].lower(), 0)
    file = fields.get("data file", fields.get("datafile", ""))
    if file.startswith("LIST") or "%" in file or not (file or end):
        return ""
    place, start = (path.parent / file, 0) if file else (path, end.end() if end else 0)
    return _stored(place, start, fields["encoding"].lower(), expected)


def _first(path: Path, number: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield file.read(number)


def _stored(path: Path, start: int, encoding: str, expected: int) -> str:
    pieces = _pieces(path, start)
    if encoding not in ("raw", "ascii", "text", "txt", "hex") and expected:
        return _unequal(_unpacked_as(encoding, pieces), expected)
    return _missing(pieces, expected) if encoding == "raw" else ""


def _unequal(pieces: Iterator[bytes] | None, expected: int) -> str:
    """One line if more or fewer bytes than expected come out of compressed data; "" if their format is unknown."""
    number = expected if pieces is None else sum(len(piece) for piece in pieces)
    return f"{number} bytes of voxels, but {expected} are expected" if number != expected else ""


def _unpacked_as(encoding: str, pieces: Iterator[bytes]) -> Iterator[bytes] | None:
    readers: dict[str, Callable[[], Iterator[bytes]]] = {
        "gzip": lambda: _unpacked(pieces, 31),
        "gz": lambda: _unpacked(pieces, 31),
        "zlib": lambda: _unpacked(pieces, 15),
        "bzip2": lambda: _bunzipped(pieces),
        "bz2": lambda: _bunzipped(pieces),
    }
    return readers[encoding]() if encoding in readers else None


def _bunzipped(pieces: Iterator[bytes]) -> Iterator[bytes]:
    decoder = bz2.BZ2Decompressor()
    for piece in pieces:
        try:
            yield decoder.decompress(piece)
        except OSError as error:
            raise EOFError(str(error)) from error
        if decoder.eof:
            return
    raise EOFError("the end is missing")


def header_fault(path: Path) -> str:
    """What is wrong with the header of a MetaImage file; "" if nothing is, and for other formats.

    ITK ends the whole process on some damaged headers, so they have to be looked at before.

    Raises:
        OSError: the file cannot be read.
    """
    if not path.name.lower().endswith((".mha", ".mhd")):
        return ""
    head = b"".join(_first(path, 1 << 16))
    end = re.search(rb"ElementDataFile[ \t]*=[ \t]*([^\r\n]*)", head)
    if not end:
        return "its header has no ElementDataFile"
    fields, file = _fields(head[: end.end()], r"([A-Za-z0-9_]+)\s*=\s*(.*)"), end[1].decode("latin-1").strip()
    try:
        sizes = [int(size) for size in fields["dimsize"].split()]
        dimensions = int(fields["ndims"])
    except (KeyError, ValueError):
        return "its header gives no valid NDims and DimSize"
    if dimensions != len(sizes) or not 1 <= dimensions <= 10 or min(sizes) < 1:
        return f"its header gives DimSize = {fields['dimsize']} for NDims = {dimensions}"
    if fields.get("elementtype", "").upper() not in _META_TYPES:
        return f"its header gives no usual ElementType ({ascii(fields.get('elementtype', 'none'))})"
    if path.name.lower().endswith(".mha") and file.upper() not in ("LOCAL", "LIST"):
        return f"its header gives ElementDataFile = {ascii(file[:20])}, where LOCAL is expected"
    if "%" in file and not re.fullmatch(r"[^%]*%0?\d*d[^%]*( +\d+){2}( +[1-9]\d*)?", file):
        return f"its header gives ElementDataFile = {ascii(file[:40])}, which is no pattern of file names"
    return ""


def _meta(path: Path) -> str:
    head = b"".join(_first(path, 1 << 16))
    end = re.search(rb"ElementDataFile[ \t]*=[ \t]*([^\r\n]*)\r?\n?", head)
    if not end:
        return ""
    fields = _fields(head[: end.end()], r"([A-Za-z0-9_]+)\s*=\s*(.*)")
    file, packed = end[1].decode("latin-1").strip(), fields.get("compresseddata", "").lower() == "true"
    if file.startswith("LIST") or "%" in file or "headersize" in fields:
        return ""
    channels = int(fields.get("elementnumberofchannels", 1))
    sizes = [int(size) for size in fields["dimsize"].split()]
    expected = channels * math.prod(sizes) * _META_TYPES.get(fields["elementtype"].upper(), 0)
    place, start = (path, end.end()) if file.upper() == "LOCAL" else (path.parent / file, 0)
    stored, size = place.stat().st_size - start, int(fields.get("compresseddatasize", 0))
    if packed and size and stored < size:
        return f"{stored} bytes of compressed data, but {size} are expected"
    if packed and size and stored > size:
        return f"{stored} bytes of compressed data, but its header says {size}"
    return _stored(place, start, "zlib" if packed else "raw", expected)
