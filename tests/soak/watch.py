"""What an engine does with each request, and what a process holds."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from internvl.errors import ServingError
from llm_service.assembly import EngineAssembly
from llm_service.engine.engine import Engine
from llm_service.engine.events import Event, Failed, Finished
from llm_service.engine.request import Request
from llm_service.engine.thread import Publish


class EngineWatch:
    """Stands between an engine and its thread, and keeps account of every request.

    Attributes:
        submitted: requests that came.
        ended: names of those that are over.
        endings: how they ended.
        interrupted: how far those were that a client's doing ended: it cancelled, hung up or broke the rules.
        faults: events behind an end, second ends, requests of one name. There must be none.
    """

    def __init__(self) -> None:
        self.engine: Engine
        self.submitted: set[str] = set()
        self.ended: set[str] = set()
        self.endings: Counter[str] = Counter()
        self.interrupted: Counter[str] = Counter()
        self.faults: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Watch the engine that is built next."""
        real = EngineAssembly.build

        def build(assembly: EngineAssembly, publish: Publish) -> Engine:
            def tell(request: Request, event: Event) -> None:
                self._note(request, event)
                publish(request, event)

            self.engine = real(assembly, tell)
            self._submit, self._cancel, self._fail = self.engine.submit, self.engine.cancel, self.engine.fail
            self.engine.submit = self.submit  # type: ignore[method-assign]
            self.engine.cancel = self.cancel  # type: ignore[method-assign]
            self.engine.fail = self.fail  # type: ignore[method-assign]
            return self.engine

        monkeypatch.setattr(EngineAssembly, "build", build)

    def submit(self, request: Request) -> None:
        if request.request_id in self.submitted:
            self.faults.append(f"{request.request_id} came twice")
        self.submitted.add(request.request_id)
        self._submit(request)

    def cancel(self, request: Request) -> None:
        if request in self.engine._jobs:
            self.interrupted[self._phase(request)] += 1
            self._end(request, "cancelled")
        self._cancel(request)

    def fail(self, request: Request, error: ServingError) -> None:
        """Also where a client has gone: the end of its messages may come before word of that."""
        if request in self.engine._jobs:
            self.interrupted[self._phase(request)] += 1
        self._fail(request, error)

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits, runs or holds a block."""
        scheduler = self.engine._scheduler
        held = (scheduler.waiting, scheduler.running, scheduler.blocks.used, scheduler.kv_tokens)
        return held == ((), (), 0, 0) and not self.engine._jobs

    def is_stalled(self, request_id: str) -> bool:
        """Whether a request waits for tiles."""
        running = self.engine._scheduler.running
        return any(one.request.request_id == request_id and one.is_stalled for one in running)

    def _note(self, request: Request, event: Event) -> None:
        if request.request_id in self.ended:
            self.faults.append(f"{event} after the end of {request.request_id}")
        if isinstance(event, Finished):
            self._end(request, "finished")
        if isinstance(event, Failed):
            self._end(request, event.error.reason)

    def _end(self, request: Request, ending: str) -> None:
        self.ended.add(request.request_id)
        self.endings[ending] += 1

    def _phase(self, request: Request) -> str:
        sequence = self.engine._jobs[request].first
        if sequence in self.engine._scheduler.waiting:
            return "queued"
        if sequence.generated:
            return "decoding"
        return "waiting for tiles" if sequence.is_stalled else "in prefill"


class Held(NamedTuple):
    """What this process holds."""

    threads: int
    files: int
    tasks: int

    @classmethod
    def now(cls) -> Held:
        return cls(
            threads=threading.active_count(),
            files=sum(1 for _ in Path("/proc/self/fd").iterdir()),
            tasks=len(asyncio.all_tasks()),
        )

    def is_within(self, other: Held) -> bool:
        return all(mine <= theirs for mine, theirs in zip(self, other, strict=True))


def memory_mib() -> float:
    """Resident memory of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
