"""A decoder in a process of its own: a crash or a hang in a media library ends there, not here."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import subprocess
import sys
from typing import Literal

import numpy as np

from internvl.errors import BadMedia, InvalidField
from vision_service.decode_process import Answer, DecodeRequest
from vision_service.image import FileBytes
from vision_service.limits import MediaLimits
from vision_service.media import DecodedMedia, MediaInfo, MediaKind, MediaType
from vision_service.options import MediaOptions
from vision_service.tiling import TileGrid

_PROGRAM = "import sys; from vision_service.decode_process import main; main(int(sys.argv[1]))"


class WorkerLost(Exception):
    """The process is gone or must go; `cause` is "crash" or "timeout". It needs a `restart`."""

    def __init__(self, cause: Literal["crash", "timeout"]) -> None:
        super().__init__(cause)
        self.cause = cause


class DecodeWorker:
    """One process and the connection to it. One call at a time; calls block."""

    def __init__(self, limits: MediaLimits) -> None:
        self._limits = limits
        self._launch()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def inspect(self, data: FileBytes, timeout_s: float) -> MediaInfo:
        """`inspect_media` over there.

        Raises:
            BadMedia: as `inspect_media`.
            WorkerLost: the process died or took longer than `timeout_s`.
        """
        answer = self._call(DecodeRequest(data, None, self._limits), timeout_s)
        media_type = MediaType(answer["type"], MediaKind(answer["kind"]))
        return MediaInfo(
            media_type, answer["width"], answer["height"], answer["frame_count"], answer["duration_s"]
        )

    def decode(self, data: FileBytes, options: MediaOptions, timeout_s: float) -> DecodedMedia:
        """`decode_media` over there.

        Raises:
            BadMedia, InvalidField: as `decode_media`.
            WorkerLost: the process died or took longer than `timeout_s`.
        """
        answer = self._call(DecodeRequest(data, options, self._limits), timeout_s)
        grids = tuple(TileGrid(*grid) for grid in answer["grids"])
        shape = (sum(grid.tiles for grid in grids), *(options.tiling.tile_size,) * 2, 3)
        tiles = np.frombuffer(self._receive(), np.uint8)
        if tiles.size != math.prod(shape):
            raise WorkerLost("crash")
        return DecodedMedia(grids, tiles.reshape(shape))

    def restart(self) -> None:
        """End the process, whatever it does, and start a fresh one."""
        self.stop()
        self._launch()

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def _launch(self) -> None:
        # A new program, not a fork: a fork would copy the locks of this process's threads in whatever state
        # they are. Not multiprocessing's spawn either, which runs the caller's main module again.
        self._connection, far_end = multiprocessing.Pipe()
        with far_end:
            descriptor = far_end.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(descriptor)],
                pass_fds=[descriptor],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.DEVNULL,
            )

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
