"""Tells whether a DICOM file ends too early.

pydicom reads what is there and says nothing about the rest, so that a structure set that was cut off in the middle
loses contours in silence.
"""

from __future__ import annotations

from pathlib import Path

LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}  # 4-byte lengths
UNDEFINED = 0xFFFFFFFF
ITEM, END_OF_ITEM, END_OF_SEQUENCE = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD


class _CutOff(Exception):
    """An element reaches beyond the end of what holds it."""


def is_cut_off(path: Path, implicit: bool, little_endian: bool) -> bool:
    """Whether an element or a sequence of a file reaches beyond the end of the file or of the item that holds it.

    Args:
        path: a file whose data set is not deflated.
        implicit, little_endian: how the data set is encoded (the group of the file's meta data never is otherwise than
            explicit and little-endian).

    Raises:
        OSError: the file cannot be read.
    """
    data = path.read_bytes()
    position = 132 if data[128:132] == b"DICM" else 0
    try:
        while data[position : position + 2] == b"\x02\x00":
            position = _after_element(data, position, len(data), False, "little")
        _after_elements(data, position, len(data), implicit, "little" if little_endian else "big")
    except (_CutOff, RecursionError):
        return True
    return False


def _after_elements(data: bytes, position: int, end: int, implicit: bool, order: str, closed: bool = False) -> int:
    """The position after the elements of a data set or, if ``closed``, after the mark that closes it."""
    while position < end:
        if not any(data[position : min(position + 8, end)]):  # files may be padded with zeros
            return end
        if _tag(data, position, order) == END_OF_ITEM:
            return position + 8
        position = _after_element(data, position, end, implicit, order)
    if closed:
        raise _CutOff
    return position


def _after_element(data: bytes, position: int, end: int, implicit: bool, order: str) -> int:
    kind = data[position + 4 : position + 6]
    if implicit or not (kind.isalpha() and kind.isupper()):  # some writers change to implicit within a sequence
        length, start, kind = _number(data, position + 4, 4, order), position + 8, b""
    elif kind in LONG:
        length, start = _number(data, position + 8, 4, order), position + 12
    else:
        length, start = _number(data, position + 6, 2, order), position + 8
    if length == UNDEFINED:
        fragments = kind in (b"OB", b"OW")
        return _after_items(data, start, end, implicit or kind == b"UN", order, closed=True, nested=not fragments)
    if start + length > end:
        raise _CutOff
    if kind == b"SQ":
        _after_items(data, start, start + length, implicit, order, closed=False)
    return start + length


def _after_items(
    data: bytes, position: int, end: int, implicit: bool, order: str, closed: bool, nested: bool = True
) -> int:
    """The position after the items of a sequence or, if not ``nested``, the fragments of compressed pixels."""
    while position < end:
        tag, length = _tag(data, position, order), _number(data, position + 4, 4, order)
        position += 8
        if tag == END_OF_SEQUENCE:
            return position
        if tag != ITEM:
            raise _CutOff
        if length == UNDEFINED:
            position = _after_elements(data, position, end, implicit, order, closed=True)
        elif position + length > end:
            raise _CutOff
        else:
            if nested:
                _after_elements(data, position, position + length, implicit, order)
            position += length
    if closed:
        raise _CutOff
    return position


def _tag(data: bytes, position: int, order: str) -> int:
    return _number(data, position, 2, order) << 16 | _number(data, position + 2, 2, order)


def _number(data: bytes, position: int, size: int, order: str) -> int:
    part = data[position : position + size]
    if len(part) < size:
        raise _CutOff
    return int.from_bytes(part, "little" if order == "little" else "big")
