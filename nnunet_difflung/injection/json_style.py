"""Changes a JSON file of a user where its content changes, and nowhere else.

Indentation, spaces, order of keys, escapes such as ``\\u00e9``, line ends, a byte order mark and the end of the file
stay as they are; what is added is written as what stands before it.
"""

from __future__ import annotations

import codecs
import json
import re
from typing import Any

_DECODER = json.JSONDecoder()
_SPACE = re.compile(r"[ \t\r\n]*")

Span = tuple[int, int]


def in_style_of(original: bytes, content: Any) -> bytes:
    """A JSON text with new content, written like an earlier text.

    Args:
        original: the earlier text, in UTF-8.
        content: the new content; where it does not differ from the earlier one, the text does not change.

    Raises:
        ValueError: the earlier text is not JSON in UTF-8.
    """
    mark = codecs.BOM_UTF8 if original.startswith(codecs.BOM_UTF8) else b""
    text = original[len(mark) :].decode("utf-8")
    start = _skip(text, 0)
    old, end = _DECODER.raw_decode(text, start)
    style = _Style(text)
    changed = text[:start] + style.changed(start, end, old, content) + text[end:]
    if json.loads(changed) != content:
        raise ValueError("the content cannot be written in this style")  # such as an object that has a key twice
    return mark + changed.encode("utf-8")


class _Style:
    """Writes values as a JSON text writes its values."""

    def __init__(self, text: str):
        self.text = text
        self.ascii_only = text.isascii()
        self.comma = ", " if re.search(r'[\]}"\w], ', text) or "," not in text else ","
        self.colon = ": " if re.search(r'":\s', text) or '":' not in text else ":"

    def changed(self, start: int, end: int, old: Any, new: Any) -> str:
        """The text between two positions, which says ``old``, with what differs in ``new``."""
        if json.dumps(old) == json.dumps(new):
            return self.text[start:end]
        if isinstance(old, dict) and isinstance(new, dict) and old:
            return self._object(start, end, old, new)
        if isinstance(old, list) and isinstance(new, list) and old:
            return self._array(start, end, old, new)
        return self._written(new, self._line_start(start), "\n" in self.text[start:end])

    def _object(self, start: int, end: int, old: dict, new: dict) -> str:
        members = _members(self.text, start)
        kept: list[tuple[Span, str]] = []
        for key, (first, value, last) in members.items():
            if key in new:
                kept.append(((first, last), self.text[first:value] + self.changed(value, last, old[key], new[key])))
        spans = [(first, last) for first, _, last in members.values()]
        example = self.text[slice(*list(members.values())[-1][1:])]
        between = self._between(start, spans)
        indent = between.rpartition("\n")[2].lstrip(",") if "\n" in between else ""
        added = [
            f"{json.dumps(key, ensure_ascii=self.ascii_only)}{self.colon}"
            f"{self._written(value, indent, chr(10) in example)}"
            for key, value in new.items()
            if key not in old
        ]
        return self._joined(start, end, spans, kept, added, between)

    def _array(self, start: int, end: int, old: list, new: list) -> str:
        spans, kept, position = _elements(self.text, start), [], 0
        for span, value in zip(spans, old, strict=True):
            if position < len(new) and json.dumps(new[position]) == json.dumps(value):
                kept.append((span, self.text[slice(*span)]))
                position += 1
            elif len(new) == len(old):
                kept.append((span, self.changed(*span, value, new[position])))
                position += 1
        example, between = self.text[slice(*spans[-1])], self._between(start, spans)
        indent = between.rpartition("\n")[2].lstrip(",") if "\n" in between else ""
        added = [self._written(value, indent, "\n" in example) for value in new[position:]]
        return self._joined(start, end, spans, kept, added, between)

    def _joined(
        self, start: int, end: int, spans: list[Span], kept: list[tuple[Span, str]], added: list[str], between: str
    ) -> str:
        """An object or array of the entries that are kept, each after what stood before it, and of added entries."""
        if not kept and not added:
            return self.text[start] + self.text[end - 1]
        before = {span: self.text[last : span[0]] for (_, last), span in zip(spans, spans[1:], strict=False)}
        opening, closing = self.text[start : spans[0][0]], self.text[spans[-1][1] : end]
        text = opening
        for position, (span, entry) in enumerate(kept):
            text += (before.get(span, between) if position else "") + entry
        for position, entry in enumerate(added):
            text += (between if kept or position else "") + entry
        return text + closing

    def _between(self, start: int, spans: list[Span]) -> str:
        """What stands between two entries: between the last two, or else as after the opening bracket."""
        if len(spans) > 1:
            return self.text[spans[-2][1] : spans[-1][0]]
        space = self.text[start + 1 : spans[0][0]]
        return "," + space if "\n" in space else self.comma

    def _line_start(self, position: int) -> str:
        """The spaces at the beginning of a line."""
        line = self.text.rfind("\n", 0, position) + 1
        return self.text[line : _skip(self.text, line)]

    def _written(self, value: Any, indent: str, several_lines: bool) -> str:
        if not several_lines or not isinstance(value, dict | list):
            return json.dumps(value, ensure_ascii=self.ascii_only, separators=(self.comma, self.colon))
        unit = re.search(r"\n([ \t]+)", self.text)
        lines = json.dumps(
            value, ensure_ascii=self.ascii_only, indent=unit.group(1) if unit else 1, separators=(",", self.colon)
        )
        return lines.replace("\n", ("\r\n" if "\r\n" in self.text else "\n") + indent)


def _skip(text: str, position: int) -> int:
    """The position of the next character that is no space."""
    match = _SPACE.match(text, position)
    return match.end() if match else position


def _members(text: str, start: int) -> dict[str, tuple[int, int, int]]:
    """Key → positions of the key, the value, and the end of the value, of an object that begins at a position."""
    members: dict[str, tuple[int, int, int]] = {}
    position = _skip(text, start + 1)
    while text[position] != "}":
        key, end = _DECODER.raw_decode(text, position)
        value = _skip(text, _skip(text, end) + 1)
        last = _DECODER.raw_decode(text, value)[1]
        members[key] = (position, value, last)
        position = _skip(text, last)
        position = _skip(text, position + 1) if text[position] == "," else position
    return members


def _elements(text: str, start: int) -> list[Span]:
    """Beginning and end of each element of an array that begins at a position."""
    elements: list[Span] = []
    position = _skip(text, start + 1)
    while text[position] != "]":
        last = _DECODER.raw_decode(text, position)[1]
        elements.append((position, last))
        position = _skip(text, last)
        position = _skip(text, position + 1) if text[position] == "," else position
    return elements
