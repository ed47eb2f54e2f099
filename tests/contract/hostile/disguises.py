"""Files that are not what they say."""

from __future__ import annotations

import io
import zipfile

from tests.contract.hostile.files import (
    BAD_FILM,
    DAMAGED,
    LEGAL,
    TOO_LARGE,
    TOO_LONG,
    UNKNOWN,
    HostileFile,
)
from tests.unit.media_samples import encoded, film, picture


def disguises() -> dict[str, HostileFile]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb", bytes(5_000_000))
    bare = {
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "html": b"<!doctype html><script>alert(1)</script>",
        "pdf": b"%PDF-1.7\n1 0 obj<<>>endobj trailer<<>>",
        "zip": archive.getvalue(),
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run",
        "m3u8 playlist": b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        "ffconcat": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "photoshop": b"8BPS\0\x01" + bytes(40),
        "avif": b"\0\0\0\x20ftypavif" + bytes(90),
        "matroska that is no webm": b"\x1a\x45\xdf\xa3\x42\x82\x88matroska" + bytes(90),
        "python pickle": b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
        "zeros": bytes(4000),
    }
    photo = encoded(picture())
    return {
        **{name: HostileFile(data, (UNKNOWN,)) for name, data in bare.items()},
        "empty": HostileFile(b"", ("the file is empty",)),
        "one byte": HostileFile(b"\x89", (UNKNOWN,)),
        "gif signature on a png": HostileFile(b"GIF89a" + photo, (DAMAGED, TOO_LARGE, TOO_LONG)),
        "jpeg signature on a png": HostileFile(b"\xff\xd8\xff" + photo, (DAMAGED,)),
        "bmp signature on html": HostileFile(b"BM" + bare["html"], (DAMAGED,)),
        "mp4 signature on a playlist": HostileFile(
            b"\0\0\0\x10ftypisom\0\0\0\0" + bare["m3u8 playlist"], (BAD_FILM,), is_film=True
        ),
        "png that is a zip, too": HostileFile(photo + bare["zip"], (LEGAL,)),
        "png that is html, too": HostileFile(photo + bare["html"], (LEGAL,)),
        "film sent as a picture": HostileFile(film(3), ("expected a picture, found a film (video/mp4)",)),
        "picture sent as a film": HostileFile(photo, ("expected a film, found a picture",), is_film=True),
    }
