"""The engine: requests in, events out, one step at a time. Synchronous; `EngineThread` makes it a service."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from collections.abc import Sequence as Many
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from internvl.errors import DeadlineExceeded, InternalError, ServingError
from internvl.telemetry import get_logger
from llm_service import metrics
from llm_service.engine.drafting import PromptLookup
from llm_service.engine.estimate import Estimate
from llm_service.engine.events import Admitted, Event, Failed, TileTimeout
from llm_service.engine.job import Choice, Job
from llm_service.engine.limits import EngineLimits
from llm_service.engine.pace import Pace
from llm_service.engine.ports import Answer, Runner
from llm_service.engine.request import Embeddings, Request, SamplingParams, TileKey
from llm_service.engine.sampler import Sampled, TokenSampler
from llm_service.engine.scheduler import Scheduler
from llm_service.engine.sequence import Sequence
from llm_service.engine.step import Share, Step

_log = get_logger("engine")


class Engine:
    """Generates many answers at once. Everything happens on the thread that calls it."""

    def __init__(
        self,
        runner: Runner,
        limits: EngineLimits,
        regime_of: Callable[[int], Hashable],
        new_answer: Callable[[SamplingParams], Answer],
        publish: Callable[[Request, Event], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make an idle engine.

        Args:
            regime_of: rope regime of a sequence, by its length in tokens.
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
        self._scheduler = Scheduler(limits, self._pace, regime_of)
        self._counts = metrics.SchedulerCounts(self._scheduler)
        self._jobs: dict[Request, Job] = {}

    def submit(self, request: Request) -> None:
        """Take a request in: at once if there is room, else into the queue; or fail it."""
        now = self._clock()
        sequence = Sequence(request)
        try:
            first = self._new_choice(sequence)
            self._scheduler.submit(sequence, now)
        except ServingError as error:
            metrics.REQUESTS.labels("refused").inc()
            self._tell(request, Failed(error))
            return
        job = self._jobs[request] = Job(request, first)
        if job.is_complete:  # the tokens delivered before are the whole answer
            self._tell(request, Admitted(0, ()))
            self._finish(job)
        else:
            self._admit(now)
            self._counts.observe()

    def estimate(self, request: Request) -> Estimate:
        """What a request would meet if it came now. Nothing is computed, taken or promised."""
        return self._scheduler.estimate(Sequence(request), self._clock())

    def receive_tile(self, request: Request, tile: TileKey, embeddings: Embeddings) -> None:
        """Take the embeddings of one tile. A request that has ended no longer cares."""
        if job := self._jobs.get(request):
            job.first.receive(tile, embeddings)
            if not job.first.is_stalled:
                job.timeline.resume(self._clock())

    def cancel(self, request: Request) -> None:
        """Free everything a request holds, without a word. A request that has ended holds nothing."""
        if job := self._jobs.get(request):
            self._remove(job)
            metrics.REQUESTS.labels("cancelled").inc()
            tokens = sum(len(choice.sequence.generated) for choice in job.choices)
            _log.info("cancelled", request=request.request_id, completion_tokens=tokens)

    def fail(self, request: Request, error: ServingError) -> None:
        """End a request with an error that was found elsewhere. A request that has ended stays as it is."""
        if job := self._jobs.get(request):
            self._fail(job, error)

    def step(self) -> None:
        """One turn: schedule, run, sample, publish."""
        timer = metrics.PhaseTimer()
        step = self._schedule()
        timer.lap("schedule")
        logits = self._run(step)
        timer.lap("run")
        sampled = self._sample(logits)
        timer.lap("sample")
        self._publish(sampled)
        timer.lap("publish")

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
        try:
            self._scheduler.check_queue()
        except ServingError:
            metrics.REQUESTS.labels("refused").inc()
            raise

    def _schedule(self) -> Step:
        now = self._clock()
        self._expire(now)
        self._admit(now)
        step = self._scheduler.schedule(now, self._draft)
        for share in step.shares:
            self._jobs[share.sequence.request].timeline.start(now)
        return step

    def _draft(self, sequence: Sequence, most: int) -> tuple[int, ...]:
        return self._jobs[sequence.request].choices[sequence.choice].propose(most)

    def _run(self, step: Step) -> list[tuple[Share, NDArray[np.float32]]]:
        """Compute the shares of a step; each with the logits that it wants."""
        if not step.shares:
            return []
        started = self._clock()
        try:
            logits = self._runner.run(step)
        except Exception:  # whatever the model raises must not end the thread that everybody shares
            jobs = [
                self._jobs[request] for request in {share.sequence.request: None for share in step.shares}
            ]
            _log.error("step failed", requests=[job.request.request_id for job in jobs], exc_info=True)
            for job in jobs:
                self._fail(job, InternalError("the model failed; the server's log has the details"))
            return []
        self._scheduler.observe(step, self._clock() - started)
        return list(zip(step.shares, logits, strict=True))

    def _sample(
        self, computed: Many[tuple[Share, NDArray[np.float32]]]
    ) -> list[tuple[Choice, list[Sampled]]]:
        """Choose tokens where logits are wanted, and have the scheduler note what was computed."""
        chosen = []
        for share, rows in computed:
            job = self._jobs.get(share.sequence.request)
            if job is None:  # failed a moment ago, through another of its answers
                continue
            try:
                for twin, choice in self._fork(job, share):
                    sampled = choice.sampler.sample(rows, twin.drafts) if len(rows) else []
                    self._complete(twin, sampled)
                    if sampled:
                        chosen.append((choice, sampled))
            except ServingError as error:
                self._fail(job, error)
        return chosen

    def _fork(self, job: Job, share: Share) -> list[tuple[Share, Choice]]:
        """The share and its answer; where it completes a prompt that is to become several, one for each."""
        if job.awaits_fork and share.wanted:
            for number in range(1, job.request.sampling.n):
                job.choices.append(self._new_choice(self._scheduler.fork(share.sequence, number)))
            return [(Share(choice.sequence, share.tokens), choice) for choice in job.choices]
        return [(share, job.choices[share.sequence.choice])]

    def _complete(self, share: Share, sampled: Many[Sampled]) -> None:
        if share.drafts:
            metrics.observe_drafts(len(share.drafts), len(sampled) - 1)
        if self._scheduler.complete(share, [token.token_id for token in sampled]):
            metrics.ROPE_RECOMPUTES.inc()

    def _publish(self, chosen: Many[tuple[Choice, list[Sampled]]]) -> None:
        now = self._clock()
        metrics.GENERATED_TOKENS.inc(sum(self._push(choice, sampled, now) for choice, sampled in chosen))
        for sequence in self._scheduler.running:
            timeline = self._jobs[sequence.request].timeline
            if sequence.is_stalled:
                timeline.stall(now)
            else:  # by a tile, or by what the cache held when it was admitted again
                timeline.resume(now)
        self._counts.observe(now if self.has_work else None)  # the last word before a rest is never stale

    def _push(self, choice: Choice, sampled: list[Sampled], now: float) -> int:
        """Add tokens to their answer and tell of them; end the answer, and the request, where that was it.

        Returns:
            How many tokens the answer took.
        """
        request = choice.sequence.request
        job = self._jobs.get(request)
        if job is None:  # failed a moment ago, through another of its answers
            return 0
        delta = choice.take(sampled)
        job.timeline.token(now)
        metrics.observe_latency(now - job.timeline.opened, choice.gap(now))
        self._tell(request, delta)
        if choice.end:
            self._scheduler.remove(choice.sequence)
            if job.is_complete:
                self._finish(job)
        return len(delta.token_ids)

    def _finish(self, job: Job) -> None:
        finished = job.outcome()
        self._remove(job)
        metrics.observe_finish(finished)
        _log.info(
            "answer complete",
            request=job.request.request_id,
            reasons=[end.reason.name.lower() for end in finished.choices],
            **asdict(finished.usage),
            **{name: round(seconds, 4) for name, seconds in asdict(finished.timings).items()},
        )
        self._tell(job.request, finished)

    def _fail(self, job: Job, error: ServingError) -> None:
        self._remove(job)
        metrics.REQUESTS.labels("failed").inc()
        self._tell(job.request, Failed(error))

    def _remove(self, job: Job) -> None:
        for choice in job.choices:
            self._scheduler.remove(choice.sequence)
        del self._jobs[job.request]
        self._admit(self._clock())
        self._counts.observe()

    def _admit(self, now: float) -> None:
        """Call whenever something came or went: nothing that could run ever waits for a step."""
        for sequence in self._scheduler.admit(now):
            self._tell(sequence.request, Admitted(sequence.cached_tokens, sequence.needs()))

    def _new_choice(self, sequence: Sequence) -> Choice:
        request = sequence.request
        sampler = TokenSampler(request, sequence.choice)
        drafts = PromptLookup(request) if self._limits.draft_tokens else None
        return Choice(sequence, self._new_answer(request.sampling), sampler, drafts)

    def _expire(self, now: float) -> None:
        for job in list(self._jobs.values()):
            expiry = self._expiry(job)
            if expiry is not None and now >= expiry:
                self._fail(job, self._expired(job, now))

    def _expiry(self, job: Job) -> float | None:
        deadline, stalled = job.request.deadline, job.timeline.stalled_since
        if stalled is None:
            return deadline
        tile = stalled + self._limits.tile_timeout_s
        return tile if deadline is None else min(tile, deadline)

    def _expired(self, job: Job, now: float) -> ServingError:
        missing = job.first.missing
        deadline = job.request.deadline
        if missing is None or (deadline is not None and now >= deadline):
            return DeadlineExceeded("the deadline passed before the answer was complete")
        return TileTimeout(
            f"tile {missing.tile.number} did not come within {self._limits.tile_timeout_s:g} s",
            metadata={"visual_id": missing.tile.visual_id, "tile": missing.tile.number},
        )
