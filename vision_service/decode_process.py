"""The far side of `decode_worker`: a program that opens files nobody has vouched for, one at a time.

Its answers are JSON and raw pixels, never pickles: a program that a hostile file took over must not reach the
service.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from internvl.errors import BadMedia, InvalidField
from vision_service.image import FileBytes
from vision_service.limits import MediaLimits
from vision_service.media import MediaInfo, decode_media, inspect_media
from vision_service.options import MediaOptions

Answer: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """What to do with a file: look at it (`options` is None) or cut it into tiles."""

    data: FileBytes
    options: MediaOptions | None
    limits: MediaLimits


def main(descriptor: int) -> None:
    """Answer the requests that come over a connection, until the other side closes it."""
    # Signals may reach the whole process group; the service finishes its calls and then ends this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _silence_libraries()
    connection = Connection(descriptor)
    while True:
        try:
            request: DecodeRequest = connection.recv()
        except EOFError:
            return
        _answer(connection, request)


def _silence_libraries() -> None:
    """Send what C libraries write to standard error nowhere; Python's own tracebacks still get through."""
    sys.stderr = os.fdopen(os.dup(2), "w")
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _answer(connection: Connection, request: DecodeRequest) -> None:
    try:
        if request.options is None:
            _send(connection, _describe(inspect_media(request.data, request.limits)))
            return
        media = decode_media(request.data, request.options, request.limits)
    except InvalidField as error:
        _send(connection, _describe_error(error))
        return
    _send(connection, {"grids": [astuple(grid) for grid in media.grids]})
    connection.send_bytes(media.tiles.reshape(-1).data)


def _send(connection: Connection, answer: Answer) -> None:
    connection.send_bytes(json.dumps(answer).encode())


def _describe(info: MediaInfo) -> Answer:
    return {
        "type": info.type.name,
        "kind": info.type.kind.value,
        "width": info.width,
        "height": info.height,
        "frame_count": info.frame_count,
        "duration_s": info.duration_s,
    }


def _describe_error(error: InvalidField) -> Answer:
    return {
        "bad_media": isinstance(error, BadMedia),
        "field": error.field,
        "problem": error.problem,
        "metadata": error.metadata,
    }
