"""Text of files that people write: UTF-8 with or without a byte order mark, or UTF-16 with one."""

from __future__ import annotations

import codecs


def decode_text(data: bytes) -> str:
    """Return the text of a file. Editors and spreadsheets put a byte order mark first, which is not part of the text.

    Raises:
        UnicodeDecodeError: it is not UTF-8, or begins with UTF-16's mark and is not UTF-16.

    Example::

        >>> decode_text(b"\\xef\\xbb\\xbfimage,row"), decode_text("image,row".encode("utf-16"))
        ('image,row', 'image,row')
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if wide else "utf-8-sig")
