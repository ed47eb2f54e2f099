"""The far side of `decode_worker`: a program that opens files nobody has vouched for, one at a time.

Its answers are JSON and raw pixels, never pickles: a program that a hostile file took over must not reach the
service.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from internvl.errors import BadMedia, InvalidField
from vision_service.limits import MediaLimits
from vision_service.media import MediaInfo, decode_media, inspect_media
from vision_service.options import MediaOptions
from vision_service.process_limits import leave_no_core_file, limit_memory, limit_processor_time

Answer: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """What to do with the file that follows: look at it (`options` is None) or cut it into tiles.

    Attributes:
        processor_time_s: time it may compute.
    """

    options: MediaOptions | None
    limits: MediaLimits
    processor_time_s: float


def main(descriptor: int, memory_bytes: int) -> None:
    """Answer the requests that come over a connection, until the other side closes it.

    Args:
        descriptor: of the connection.
        memory_bytes: memory that one file may take.
    """
    # Signals may reach the whole process group; the service finishes its calls and then ends this process.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    _silence_libraries()
    leave_no_core_file()
    _load_libraries()
    connection = Connection(descriptor)
    release_memory = _find_release()
    limit_memory(memory_bytes)
    _send(connection, {})
    # The other side may end while an answer is on its way.
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            request: DecodeRequest = connection.recv()
            limit_processor_time(request.processor_time_s)
            _answer(connection, request)
            release_memory()


def _load_libraries() -> None:
    """Now, so that what they need for themselves is not counted against a file."""
    import av
    from PIL import Image

    av.logging.set_level(None)
    Image.init()
    # Ours is stricter, and tells the numbers.
    Image.MAX_IMAGE_PIXELS = None


def _find_release() -> Callable[[], object]:
    """What gives memory back to the system: what one file took must not count against the next."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    gc.freeze()  # what is here stays, and need not be searched again

    def release() -> None:
        gc.collect()  # a film and its frames hold each other
        if trim:
            trim(0)

    return release


def _silence_libraries() -> None:
    """Send what C libraries write to standard error nowhere; Python's own tracebacks still get through."""
    sys.stderr = os.fdopen(os.dup(2), "w")
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _answer(connection: Connection, request: DecodeRequest) -> None:
    try:
        data = connection.recv_bytes()
        if request.options is None:
            _send(connection, _describe(inspect_media(data, request.limits)))
            return
        media = decode_media(data, request.options, request.limits)
    except MemoryError:
        _send(connection, {"lost": "memory"})
        return
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
