"""A child process that opens files nobody has vouched for: a crash or a hang in a media library ends there.

Requests go down the pipe as objects of ours. Answers come up as JSON and raw pixels, never as pickles: a
child that a hostile file took over must not reach its parent.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

import numpy as np

from internvl.errors import BadMedia, InvalidField
from vision_service.image import FileBytes
from vision_service.limits import MediaLimits
from vision_service.media import DecodedMedia, MediaInfo, MediaKind, MediaType, decode_media, inspect_media
from vision_service.options import MediaOptions
from vision_service.tiling import TileGrid

Answer = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """What to do with a file: look at it (`options` is None) or cut it into tiles."""

    data: FileBytes
    options: MediaOptions | None


class WorkerLost(Exception):
    """The child is gone; `cause` is "crash" or "timeout". It needs a `restart`."""

    def __init__(self, cause: Literal["crash", "timeout"]) -> None:
        super().__init__(cause)
        self.cause = cause


class DecodeWorker:
    """One child process and the pipe to it. One call at a time; calls block."""

    def __init__(self, limits: MediaLimits) -> None:
        self._limits = limits
        self._launch()

    def inspect(self, data: FileBytes, timeout_s: float) -> MediaInfo:
        """`inspect_media` over there.

        Raises:
            BadMedia: as `inspect_media`.
            WorkerLost: the child died or took longer than `timeout_s`.
        """
        answer = self._call(DecodeRequest(data, None), timeout_s)
        media_type = MediaType(answer["type"], MediaKind(answer["kind"]))
        return MediaInfo(
            media_type, answer["width"], answer["height"], answer["frame_count"], answer["duration_s"]
        )

    def decode(self, data: FileBytes, options: MediaOptions, timeout_s: float) -> DecodedMedia:
        """`decode_media` over there.

        Raises:
            BadMedia, InvalidField: as `decode_media`.
            WorkerLost: the child died or took longer than `timeout_s`.
        """
        answer = self._call(DecodeRequest(data, options), timeout_s)
        grids = tuple(TileGrid(*grid) for grid in answer["grids"])
        side = options.tiling.tile_size
        pixels = self._receive()
        tiles = np.frombuffer(pixels, np.uint8)
        if tiles.size != math.prod((sum(grid.tiles for grid in grids), side, side, 3)):
            raise WorkerLost("crash")
        return DecodedMedia(grids, tiles.reshape(-1, side, side, 3))

    def restart(self) -> None:
        """End the child, whatever it does, and start a fresh one."""
        self.stop()
        self._launch()

    def stop(self) -> None:
        """End the child, whatever it does."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _launch(self) -> None:
        # A fork would copy the parent's threads' locks in whatever state they are.
        context = multiprocessing.get_context("spawn")
        self._connection, far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(far_end, self._limits), daemon=True)
        self._process.start()
        far_end.close()

    def _call(self, request: DecodeRequest, timeout_s: float) -> Answer:
        try:
            self._connection.send(request)
            if not self._connection.poll(timeout_s):
                raise WorkerLost("timeout")
        except (OSError, EOFError):
            raise WorkerLost("crash") from None
        try:
            answer: Answer = json.loads(self._receive())
        except ValueError:
            raise WorkerLost("crash") from None
        if "problem" in answer:
            raise _error(answer)
        return answer

    def _receive(self) -> bytes:
        try:
            return self._connection.recv_bytes()
        except (OSError, EOFError):
            raise WorkerLost("crash") from None


def _error(answer: Answer) -> InvalidField:
    kind = BadMedia if answer["bad_media"] else InvalidField
    return kind(answer["field"], answer["problem"], metadata=answer["metadata"])


def _serve(connection: Connection, limits: MediaLimits) -> None:
    """The child: answer requests until the parent closes the pipe."""
    # Ctrl-C reaches the whole process group; the parent finishes its calls and then ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _silence_libraries()
    while True:
        try:
            request: DecodeRequest = connection.recv()
        except EOFError:
            return
        _answer(connection, request, limits)


def _silence_libraries() -> None:
    """Send what C libraries write to standard error nowhere; Python's own tracebacks still get through."""
    sys.stderr = os.fdopen(os.dup(2), "w")
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _answer(connection: Connection, request: DecodeRequest, limits: MediaLimits) -> None:
    try:
        if request.options is None:
            _send(connection, _describe(inspect_media(request.data, limits)))
            return
        media = decode_media(request.data, request.options, limits)
    except InvalidField as error:
        _send(connection, _describe_error(error))
        return
    _send(connection, {"grids": [list(asdict(grid).values()) for grid in media.grids]})
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
