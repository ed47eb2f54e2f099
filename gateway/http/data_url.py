"""Pictures and films inside the request, as `data:` URLs."""

from __future__ import annotations

import binascii
import re
from collections.abc import AsyncIterator

from internvl.errors import BadMedia

_HEAD = re.compile(r"data:[^,;]{0,127}(?:;[^,;]{1,127}){0,4}?;base64,", re.IGNORECASE)
_HEAD_MOST = 1024
# Decoded between two turns of the event loop: a multiple of 4.
_PIECE = 2**18


def is_data_url(url: str) -> bool:
    """Whether a URL holds its file itself."""
    return url[:5].lower() == "data:"


async def decoded(url: str, field: str) -> AsyncIterator[bytes]:
    """The bytes of a `data:` URL in base64, piece by piece.

    Its media type says nothing here: files are known by their content.

    Raises:
        BadMedia: it is not in base64.
    """
    head = _HEAD.match(url[:_HEAD_MOST])
    if head is None:
        raise BadMedia(field, "a data: URL must look like data:image/png;base64,...")
    start, end = head.end(), len(url)
    if (end - start) % 4:
        raise BadMedia(field, "is not valid base64: its length is not a multiple of 4")
    for position in range(start, end, _PIECE):
        piece = url[position : position + _PIECE]
        if "=" in piece and position + _PIECE < end:
            raise BadMedia(field, "is not valid base64: it ends too early")
        try:
            yield binascii.a2b_base64(piece, strict_mode=True)
        except ValueError:
            raise BadMedia(field, "is not valid base64") from None
