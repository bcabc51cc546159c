"""One spelling for names that file systems and archives spell differently.

macOS decomposes letters with accents (``u`` and ``¨``), other systems do not; an archive that was packed on one and
unpacked on another has both.
"""

from __future__ import annotations

import unicodedata


def composed(name: str) -> str:
    """A name in composed Unicode (NFC)."""
    return unicodedata.normalize("NFC", name)
