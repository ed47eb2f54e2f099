"""The engine: requests in, events out, one step at a time. Synchronous; `EngineThread` makes it a service."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from internvl.errors import DeadlineExceeded, InternalError, ServingError
from internvl.telemetry import get_logger
from llm_service import metrics
from llm_service.engine.events import (
    Admitted,
    Delta,
    Event,
    Failed,
    Finished,
    FinishReason,
    TileTimeout,
    Usage,
)
from llm_service.engine.limits import EngineLimits
from llm_service.engine.pace import Pace
from llm_service.engine.ports import Answer, Runner
from llm_service.engine.request import Embeddings, Request, SamplingParams, TileKey
from llm_service.engine.sampler import sample
from llm_service.engine.scheduler import Scheduler, Work
from llm_service.engine.sequence import Sequence
from llm_service.engine.timeline import Timeline

_log = get_logger("engine")


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """All that belongs to one request."""

    request: Request
    sequence: Sequence
    answer: Answer
    timeline: Timeline


class Engine:
    """Generates many answers at once. Everything happens on the thread that calls it."""

    def __init__(
        self,
        runner: Runner,
        limits: EngineLimits,
        new_answer: Callable[[SamplingParams], Answer],
        publish: Callable[[Request, Event], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an idle engine.

        Args:
            new_answer: makes the text side of an answer.
            publish: is told what happens to each request: `Admitted`, `Delta`s, and `Finished` or `Failed`;
                nothing after a request was cancelled.
            clock: seconds; the same that deadlines are given on.
        """
        self._runner = runner
        self._limits = limits
        self._new_answer = new_answer
        self._tell = publish
        self._clock = clock
        self._pace = Pace()
        self._scheduler = Scheduler(limits, self._pace)
        self._jobs: dict[Request, _Job] = {}

    def submit(self, request: Request) -> None:
        """Take a request in: at once if there is room, else into the queue; or fail it."""
        sequence = Sequence(request)
        try:
            self._scheduler.submit(sequence)
        except ServingError as error:
            metrics.REQUESTS.labels("refused").inc()
            self._tell(request, Failed(error))
            return
        answer = self._new_answer(request.sampling)
        self._jobs[request] = _Job(request, sequence, answer, Timeline(request.opened))
        self._runner.follow_rope(sequence)
        self._admit()

    def receive_tile(self, request: Request, tile: TileKey, embeddings: Embeddings) -> None:
        """Take the embeddings of one tile. A request that has ended no longer cares."""
        if job := self._jobs.get(request):
            job.sequence.receive(tile, embeddings)
            if not job.sequence.is_stalled:
                job.timeline.resume(self._clock())

    def cancel(self, request: Request) -> None:
        """Free everything a request holds, without a word. A request that has ended holds nothing."""
        if job := self._jobs.get(request):
            self._remove(job)
            metrics.REQUESTS.labels("cancelled").inc()
            _log.info("cancelled", request=request.request_id, completion_tokens=len(job.sequence.generated))

    def fail(self, request: Request, error: ServingError) -> None:
        """End a request with an error that was found elsewhere. A request that has ended stays as it is."""
        if job := self._jobs.get(request):
            self._fail(job, error)

    def step(self) -> None:
        """One turn: schedule, run, sample, publish."""
        work = self._schedule()
        computed = self._run(work)
        tokens = self._sample(computed)
        self._publish(tokens)

    @property
    def has_work(self) -> bool:
        """Whether a step would compute anything."""
        return self._scheduler.has_work

    @property
    def next_expiry(self) -> float | None:
        """When a step is due even if nothing happens, on the engine's clock."""
        expiries = (self._expiry(job) for job in self._jobs.values())
        return min((expiry for expiry in expiries if expiry is not None), default=None)

    def check_queue(self) -> None:
        """See `Scheduler.check_queue`."""
        self._scheduler.check_queue()

    def _schedule(self) -> list[Work]:
        now = self._clock()
        self._expire(now)
        work = self._scheduler.schedule()
        for sequence, _ in work:
            self._jobs[sequence.request].timeline.start(now)
        return work

    def _run(self, work: Many[Work]) -> list[tuple[_Job, NDArray[np.float32]]]:
        """Compute the shares of a step; the sequences that want a token, with logits [vocabulary]."""
        if not work:
            return []
        jobs = [self._jobs[sequence.request] for sequence, _ in work]
        try:
            with metrics.STEP_SECONDS.time():
                logits = self._runner.run(work)
        except Exception:  # whatever the model raises must not end the thread that everybody shares
            _log.error("step failed", requests=[job.request.request_id for job in jobs], exc_info=True)
            for job in jobs:
                self._fail(job, InternalError("the model failed; the server's log has the details"))
            return []
        return [(job, row) for job, row in zip(jobs, logits, strict=True) if job.sequence.is_complete]

    def _sample(self, computed: Many[tuple[_Job, NDArray[np.float32]]]) -> list[tuple[_Job, int]]:
        tokens = []
        for job, logits in computed:
            request = job.request
            try:
                token = sample(logits, request.sampling, request.prompt_ids, job.sequence.generated)
            except InternalError as error:
                self._fail(job, error)
            else:
                tokens.append((job, token))
        return tokens

    def _publish(self, tokens: Many[tuple[_Job, int]]) -> None:
        now = self._clock()
        for job, token in tokens:
            metrics.observe_token(now - job.timeline.opened, job.timeline.token(now))
            self._push(job, token)
        for sequence in self._scheduler.running:
            if sequence.is_stalled:
                self._jobs[sequence.request].timeline.stall(now)

    def _push(self, job: _Job, token: int) -> None:
        """Add a token to its answer, and end the answer if that was the last."""
        sequence, answer = job.sequence, job.answer
        sequence.generated.append(token)
        text = answer.push(token)
        if not answer.stopped and not sequence.is_finished:
            self._tell(job.request, Delta(text, (token,)))
            if self._runner.follow_rope(sequence):
                metrics.ROPE_RECOMPUTES.inc()
            return
        stopped = answer.stopped
        text += answer.flush()  # may complete a stop text
        self._tell(job.request, Delta(text, (token,)))
        self._finish(job, FinishReason.STOP if stopped or answer.stop_match else FinishReason.LENGTH)

    def _finish(self, job: _Job, reason: FinishReason) -> None:
        usage = Usage(
            prompt_tokens=job.request.prompt_tokens,
            visual_tokens=job.request.visual_tokens,
            cached_tokens=job.sequence.cached_tokens,
            completion_tokens=len(job.sequence.generated),
        )
        timings = job.timeline.timings()
        self._remove(job)
        self._pace.leave(self._clock())
        metrics.observe_finish(reason, usage, timings)
        _log.info(
            "answer complete",
            request=job.request.request_id,
            reason=reason.name.lower(),
            **asdict(usage),
            **{name: round(seconds, 4) for name, seconds in asdict(timings).items()},
        )
        self._tell(job.request, Finished(reason, usage, timings, job.answer.stop_match))

    def _fail(self, job: _Job, error: ServingError) -> None:
        self._remove(job)
        metrics.REQUESTS.labels("failed").inc()
        self._tell(job.request, Failed(error))

    def _remove(self, job: _Job) -> None:
        self._scheduler.remove(job.sequence)
        self._runner.drop(job.sequence)
        del self._jobs[job.request]
        self._admit()

    def _admit(self) -> None:
        """Call whenever something came or went: nothing that could run ever waits for a step."""
        for sequence in self._scheduler.admit():
            needed = sequence.request.needs(sequence.cached_tokens)
            self._tell(sequence.request, Admitted(sequence.cached_tokens, needed))
        metrics.observe_scheduler(self._scheduler)

    def _expire(self, now: float) -> None:
        for job in list(self._jobs.values()):
            expiry = self._expiry(job)
            if expiry is not None and now >= expiry:
                self._fail(job, self._expired(job, now))

    def _expiry(self, job: _Job) -> float | None:
        stalled = job.timeline.stalled_since
        tile = None if stalled is None else stalled + self._limits.tile_timeout_s
        return min((time for time in (tile, job.request.deadline) if time is not None), default=None)

    def _expired(self, job: _Job, now: float) -> ServingError:
        missing = job.sequence.missing
        deadline = job.request.deadline
        if missing is None or (deadline is not None and now >= deadline):
            return DeadlineExceeded("the deadline passed before the answer was complete")
        return TileTimeout(
            f"tile {missing.tile.number} did not come within {self._limits.tile_timeout_s:g} s",
            metadata={"visual_id": missing.tile.visual_id, "tile": missing.tile.number},
        )
