"""The engine in this process, on the embedded model, driven step by step.

Everything that a step costs in the service is here: scheduling, the model, sampling, detokenizing, stop
texts. What is not: gRPC, and handing events to the thread that speaks it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from benchmarks.engine.meter import MeteredRunner
from benchmarks.engine.visuals import Visual
from llm_service.assembly import EngineAssembly
from llm_service.config import parse_config
from llm_service.engine.events import Admitted, Delta, Event, Failed, Finished
from llm_service.engine.request import Request, TileKey
from llm_service.loading import LoadedModel
from llm_service.runner import BatchRunner, Model

KV_BUDGET = "512MiB"
"""Room for 87,000 tokens of the embedded model: nothing that is measured here fills it."""


@dataclass(eq=False, slots=True)
class Stream:
    """One request on its way, and what has become of it.

    Attributes:
        opened: when it was submitted; this and `arrivals` in seconds of `time.perf_counter`.
        arrivals: when each delta came.
        tokens: of the answer so far.
    """

    request: Request
    visual: Visual
    opened: float
    arrivals: list[float] = field(default_factory=list)
    tokens: int = 0
    text: str = ""
    finished: Finished | None = None

    @property
    def first_token_s(self) -> float:
        """Seconds from submitting to the first token."""
        return self.arrivals[0] - self.opened

    @property
    def decode_s(self) -> float:
        """Seconds from the first token to the last."""
        return self.arrivals[-1] - self.arrivals[0]


@dataclass(frozen=True, slots=True)
class StepTime:
    """One step: seconds in all, seconds of the model alone, answers that decoded, prompt tokens computed."""

    seconds: float
    model_s: float
    decodes: int
    prefill: int


class Rig:
    """An engine with a cache of its own.

    Attributes:
        runner: sees every step.
        block_size: tokens of a cache block.
        steps: times of all steps since it was last emptied.
    """

    def __init__(self, model: LoadedModel, *flags: str) -> None:
        """Load the decoder.

        Args:
            flags: of the language service; what is not said has the service's default.
        """
        config = parse_config(["--kv-budget", KV_BUDGET, *flags])
        self.block_size = config.engine.kv_block_size
        self.steps: list[StepTime] = []
        self._streams: dict[Request, Stream] = {}
        self._admitted: list[tuple[Stream, Admitted]] = []
        self._engine = EngineAssembly(config, model).build(self._publish, self._metered)

    def submit(self, request: Request, visual: Visual) -> Stream:
        """Hand in a request. The tiles it needs are sent the moment it is admitted."""
        stream = self._streams[request] = Stream(request, visual, time.perf_counter())
        self._engine.submit(request)
        self._send_tiles()
        return stream

    def step(self) -> StepTime:
        """Run one step and note its times."""
        began = time.perf_counter()
        self._engine.step()
        seconds = time.perf_counter() - began
        shares = self.runner.step.shares
        decodes = sum(share.tokens == 1 for share in shares)
        prefill = sum(share.tokens for share in shares if share.tokens > 1)
        self.steps.append(StepTime(seconds, self.runner.seconds, decodes, prefill))
        self._send_tiles()
        return self.steps[-1]

    def start(self, requests: Iterable[tuple[Request, Visual]]) -> list[Stream]:
        """Submit requests and step until all of them decode."""
        streams = [self.submit(*each) for each in requests]
        while not all(stream.arrivals for stream in streams):
            self.step()
        return streams

    def finish(self, *streams: Stream) -> None:
        """Step until these streams are complete."""
        while not all(stream.finished for stream in streams):
            self.step()

    def cancel(self, *streams: Stream) -> None:
        """Drop streams, complete or not."""
        for stream in streams:
            self._engine.cancel(stream.request)
            self._streams.pop(stream.request, None)

    def answer(self, requests: Iterable[tuple[Request, Visual]], at_once: int) -> list[Stream]:
        """Have requests answered, `at_once` of them at any time; their streams in the same order."""
        waiting = iter(requests)
        streams = [self.submit(*each) for each in islice(waiting, at_once)]
        running = list(streams)
        while running:
            self.step()
            going_on = [stream for stream in running if not stream.finished]
            begun = [self.submit(*each) for each in islice(waiting, at_once - len(going_on))]
            streams += begun
            running = going_on + begun
        return streams

    def _metered(self, decoder: Model) -> MeteredRunner:
        self.runner = MeteredRunner(BatchRunner(decoder))
        return self.runner

    def _publish(self, request: Request, event: Event) -> None:
        stream = self._streams[request]
        match event:
            case Admitted():
                self._admitted.append((stream, event))
            case Delta(text, token_ids):
                stream.arrivals.append(time.perf_counter())
                stream.tokens += len(token_ids)
                stream.text += text
            case Finished():
                stream.finished = event
                del self._streams[request]
            case Failed(error):
                raise error

    def _send_tiles(self) -> None:
        admitted, self._admitted = self._admitted, []
        for stream, event in admitted:
            for need in event.needed:
                for number in range(need.first_tile, need.tiles):
                    tile = TileKey(need.visual_id, number)
                    self._engine.receive_tile(stream.request, tile, stream.visual.tiles[number])
