"""A decoder in a process of its own: a crash or a hang in a media library ends there, not here."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import numpy as np

from internvl.errors import BadMedia, InvalidField
from vision_service.decode_process import Answer, DecodeRequest
from vision_service.image import FileBytes
from vision_service.limits import MediaLimits
from vision_service.media import DecodedMedia, MediaInfo, MediaKind, MediaType
from vision_service.options import MediaOptions
from vision_service.tiling import TileGrid

_PROGRAM = "import sys; from vision_service.decode_process import main; main(*map(int, sys.argv[1:]))"
# All that a program needs which opens hostile files; the service's own variables may hold secrets.
_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")
# One thread decodes: more arenas and threads would only take address space. Large blocks go back to the
# system as soon as they are free.
_SETTINGS = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**18),
}
_START_TIMEOUT_S = 60.0
# Far more than any true answer takes, but for the pixels.
_MAX_ANSWER_BYTES = 2**20
_MAX_SIZE = 2**31

Cause: TypeAlias = Literal["crash", "timeout", "memory"]


class WorkerLost(Exception):
    """The process is gone or must go. It needs a `restart`."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause)
        self.cause = cause


class DecodeWorker:
    """One process and the connection to it. One call at a time; calls block."""

    def __init__(self, limits: MediaLimits, *, timeout_s: float, memory_bytes: int) -> None:
        """
        Args:
            limits: what a file may be.
            timeout_s: time for one file, by the clock and of the processor.
            memory_bytes: memory for one file, beyond what an idle decoder has.
        """
        self._limits = limits
        self._timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._launch()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def inspect(self, data: FileBytes) -> MediaInfo:
        """`inspect_media` over there.

        Raises:
            BadMedia: as `inspect_media`.
            WorkerLost: the process died, or the file took too much time or memory.
        """
        with self._working():
            return _info(self._call(data, None))

    def decode(self, data: FileBytes, options: MediaOptions) -> DecodedMedia:
        """`decode_media` over there.

        Raises:
            BadMedia, InvalidField: as `decode_media`.
            WorkerLost: the process died, or the file took too much time or memory.
        """
        with self._working():
            answer = self._call(data, options)
            grids = tuple(_grid(*each) for each in answer["grids"])
            count = _between(1, sum(grid.tiles for grid in grids), self._limits.max_tiles)
            shape = (count, *(options.tiling.tile_size,) * 2, 3)
            tiles = np.frombuffer(self._connection.recv_bytes(math.prod(shape)), np.uint8)
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
                [sys.executable, "-c", _PROGRAM, str(descriptor), str(self._memory_bytes)],
                pass_fds=[descriptor],
                env=_environment(),
                stdin=subprocess.DEVNULL,
            )
        self._is_ready = False

    def _call(self, data: FileBytes, options: MediaOptions | None) -> Answer:
        self._connection.send(DecodeRequest(options, self._limits, self._timeout_s))
        self._connection.send_bytes(data)
        answer: Answer = json.loads(self._connection.recv_bytes(_MAX_ANSWER_BYTES))
        if "lost" in answer:
            raise WorkerLost("memory")
        if "problem" in answer:
            raise _error(answer)
        return answer

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Talk to the process in the block, within the time for one file."""
        if not self._is_ready:
            with self._bounded(_START_TIMEOUT_S):
                self._connection.recv_bytes()
            self._is_ready = True
        with self._bounded(self._timeout_s):
            yield

    @contextmanager
    def _bounded(self, timeout_s: float) -> Iterator[None]:
        """Kill the process when time is up, whatever it or the block is doing then."""
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            self._process.kill()

        watchdog = threading.Timer(timeout_s, expire)
        watchdog.start()
        try:
            yield
        except (OSError, EOFError):
            raise WorkerLost("timeout" if self._ran_out_of_time() else "crash") from None
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError):
            # No answer of ours: a hostile file may have taken the process over.
            raise WorkerLost("crash") from None
        finally:
            watchdog.cancel()
            watchdog.join()
            if expired.is_set():
                raise WorkerLost("timeout") from None

    def _ran_out_of_time(self) -> bool:
        """Whether the system ended the process for its processor time."""
        try:
            return self._process.wait(timeout=1) == -signal.SIGXCPU
        except subprocess.TimeoutExpired:
            return False


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return kept | _SETTINGS | {"PYTHONPATH": os.pathsep.join(sys.path)}


def _info(answer: Answer) -> MediaInfo:
    width, height, frame_count = (
        _between(1, int(answer[name]), _MAX_SIZE) for name in ("width", "height", "frame_count")
    )
    media_type = MediaType(str(answer["type"]), MediaKind(answer["kind"]))
    return MediaInfo(media_type, width, height, frame_count, float(answer["duration_s"]))


def _grid(columns: Any, rows: Any, thumbnail: Any) -> TileGrid:
    return TileGrid(int(columns), int(rows), bool(thumbnail))


def _error(answer: Answer) -> InvalidField:
    kind = BadMedia if answer["bad_media"] else InvalidField
    return kind(str(answer["field"]), str(answer["problem"]), metadata=dict(answer["metadata"]))


def _between(least: int, value: int, most: int) -> int:
    if not least <= value <= most:
        raise ValueError("out of bounds")
    return value
