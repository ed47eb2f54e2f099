"""A pool of decoder processes behind two coroutines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from internvl.errors import BadMedia, Unavailable
from internvl.telemetry import get_logger
from vision_service import metrics
from vision_service.decode_worker import DecodeWorker, WorkerLost
from vision_service.image import FileBytes
from vision_service.limits import MediaLimits
from vision_service.media import DecodedMedia, MediaInfo
from vision_service.options import MediaOptions, VideoOptions

T = TypeVar("T")

_log = get_logger("decoder")


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """Settings of the pool.

    Attributes:
        workers: decoder processes.
        timeout_s: longest time for one file.
        memory_bytes: most memory for one file, beyond what an idle decoder has.
    """

    workers: int = 1
    timeout_s: float = 30.0
    memory_bytes: int = 2 * 2**30


class MediaDecoder:
    """Decodes files off the event loop; a file that kills or hangs its decoder fails alone."""

    def __init__(
        self, config: DecodeConfig, limits: MediaLimits, encoder_seconds: Callable[[], float] = float
    ) -> None:
        """
        Args:
            encoder_seconds: how long the encoder has computed until now, to tell how much of it overlaps.
        """
        self._config = config
        self._limits = limits
        self._encoder_seconds = encoder_seconds
        self._workers: list[DecodeWorker] = []
        self._idle: asyncio.Queue[DecodeWorker] = asyncio.Queue()
        self._stopping = False
        self._threads = ThreadPoolExecutor(config.workers, thread_name_prefix="decoder")

    @property
    def pids(self) -> list[int]:
        """Numbers of the processes."""
        return [worker.pid for worker in self._workers]

    async def start(self) -> None:
        """Start the processes."""
        self._workers = [self._new_worker() for _ in range(self._config.workers)]
        for worker in self._workers:
            self._idle.put_nowait(worker)

    async def stop(self) -> None:
        """End the processes, whatever they do."""
        self._stopping = True
        for worker in self._workers:
            worker.stop()
        await asyncio.to_thread(self._threads.shutdown)

    async def inspect(self, data: FileBytes) -> MediaInfo:
        """Tell what a file is.

        Raises:
            BadMedia: unknown, damaged, over a limit, or too slow to decode.
        """
        return await self._run(lambda worker: worker.inspect(data))

    async def decode(self, data: FileBytes, options: MediaOptions) -> DecodedMedia:
        """Decode a file and cut it into tiles.

        Raises:
            BadMedia: as `inspect`, or not of the kind that the options are for.
            InvalidField: the film is too short for the options.
        """
        return await self._run(lambda worker: self._decode(worker, data, options))

    def _decode(self, worker: DecodeWorker, data: FileBytes, options: MediaOptions) -> DecodedMedia:
        kind = "video" if isinstance(options, VideoOptions) else "image"
        started, encoder_s = time.monotonic(), self._encoder_seconds()
        media = worker.decode(data, options)
        metrics.DECODE_OVERLAPPED_SECONDS.inc(self._encoder_seconds() - encoder_s)
        metrics.DECODE_SECONDS.labels(kind).observe(time.monotonic() - started)
        return media

    def _new_worker(self) -> DecodeWorker:
        config = self._config
        return DecodeWorker(self._limits, timeout_s=config.timeout_s, memory_bytes=config.memory_bytes)

    async def _run(self, task: Callable[[DecodeWorker], T]) -> T:
        worker = await self._idle.get()
        call = asyncio.get_running_loop().run_in_executor(self._threads, partial(self._attempt, worker, task))
        call.add_done_callback(lambda _: self._idle.put_nowait(worker))
        # A caller who leaves must not hand the worker on while it is still at work.
        return await asyncio.shield(call)

    def _attempt(self, worker: DecodeWorker, task: Callable[[DecodeWorker], T]) -> T:
        try:
            return task(worker)
        except WorkerLost as loss:
            if self._stopping:
                raise Unavailable("the vision service is stopping") from None
            metrics.DECODER_RESTARTS.labels(loss.cause).inc()
            _log.warning("decoder replaced", cause=loss.cause)
            worker.restart()
            raise self._blame(loss) from None

    def _blame(self, loss: WorkerLost) -> BadMedia:
        if loss.cause == "timeout":
            limit_s = self._config.timeout_s
            problem = f"the file takes too long to decode; at most {limit_s:g} s are given"
            return BadMedia("chunk", problem, metadata={"limit": limit_s})
        if loss.cause == "memory":
            limit_mib = self._config.memory_bytes // 2**20
            problem = f"the file takes too much memory to decode; at most {limit_mib} MiB are given"
            return BadMedia("chunk", problem, metadata={"limit": limit_mib})
        return BadMedia("chunk", "the file is damaged: its decoder failed")
