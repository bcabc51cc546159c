"""One spelling for names that file systems and archives spell differently.

macOS decomposes letters with accents (``u`` and ``¨``), other systems do not; an archive that was packed on one and
unpacked on another has both. Names of a legacy encoding are no valid Unicode at all.
"""

from __future__ import annotations

import unicodedata


def composed(name: str) -> str:
    """A name in composed Unicode (NFC); bytes that are not UTF-8 are read as Latin-1."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raw = name.encode("utf-8", "surrogateescape")
        name = raw.decode("latin-1")
    return unicodedata.normalize("NFC", name)
