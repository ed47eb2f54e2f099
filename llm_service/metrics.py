"""What the language tier counts."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from llm_service.engine.events import Finished
    from llm_service.engine.scheduler import Scheduler

WAITING = Gauge("internvl_llm_requests_waiting", "Requests in the queue, preempted ones included.")
RUNNING = Gauge("internvl_llm_requests_running", "Answers that hold a running place.")
REQUESTS = Counter(
    "internvl_llm_requests", "Ended requests: stop, length, failed, refused, cancelled.", ["outcome"]
)
PREEMPTIONS = Counter("internvl_llm_preemptions", "Answers put back into the queue for want of cache room.")

KV_BUDGET = Gauge("internvl_llm_kv_budget_tokens", "Tokens that the KV cache has room for.")
KV_TOKENS = Gauge("internvl_llm_kv_tokens", "Tokens in the cache blocks that answers hold, shared ones once.")
KV_USAGE = Gauge("internvl_llm_kv_cache_usage_ratio", "Share of the cache blocks that answers hold, 0 to 1.")
KV_REUSABLE = Gauge(
    "internvl_llm_kv_reusable_ratio", "Share of the cache blocks that nobody holds, kept for later requests."
)
PREFIX_QUERIES = Counter("internvl_llm_prefix_cache_query_tokens", "Prompt tokens looked up in the cache.")
PREFIX_HITS = Counter("internvl_llm_prefix_cache_hit_tokens", "Prompt tokens found in the cache.")

PROMPT_TOKENS = Counter("internvl_llm_prompt_tokens", "Prompt tokens of complete answers.")
VISUAL_TOKENS = Counter("internvl_llm_visual_tokens", "Visual tokens of complete answers.")
GENERATED_TOKENS = Counter("internvl_llm_generated_tokens", "Tokens generated.")
DRAFTED = Counter("internvl_llm_draft_tokens", "Tokens guessed ahead by prompt lookup.")
ACCEPTED = Counter("internvl_llm_accepted_draft_tokens", "Guessed tokens that proved right.")
ROPE_RECOMPUTES = Counter(
    "internvl_llm_rope_recomputes", "Caches computed anew because a sequence outgrew the short rope regime."
)

_OBSERVE_EVERY_S = 0.1
"""Nobody reads gauges more often, and a decode step of a small model takes a few milliseconds."""

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PHASE_SECONDS = (1e-5, 3e-5, 1e-4, 3e-4, *_SECONDS)
QUEUE_SECONDS = Histogram("internvl_llm_queue_seconds", "From open to the first step.", buckets=_SECONDS)
TTFT_SECONDS = Histogram(
    "internvl_llm_time_to_first_token_seconds", "From open to the first token.", buckets=_SECONDS
)
ITL_SECONDS = Histogram(
    "internvl_llm_inter_token_latency_seconds",
    "From one piece of an answer to the next; several tokens come at once where guesses proved right.",
    buckets=_SECONDS,
)
TILE_WAIT_SECONDS = Histogram(
    "internvl_llm_tile_wait_seconds", "Time an answer stood still for tiles.", buckets=_SECONDS
)
PHASE_SECONDS = Histogram(
    "internvl_llm_step_seconds",
    "The phases of one step: schedule, run, sample, publish.",
    ["phase"],
    buckets=_PHASE_SECONDS,
)
_PHASES = {name: PHASE_SECONDS.labels(name) for name in ("schedule", "run", "sample", "publish")}


class PhaseTimer:
    """Times the phases of one step, from now on."""

    def __init__(self) -> None:
        self._began = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Note the end of a phase, and with it the beginning of the next."""
        now = time.perf_counter()
        _PHASES[phase].observe(now - self._began)
        self._began = now


class SchedulerCounts:
    """Brings the counters up to what a scheduler has counted since the last look."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._preemptions = self._queries = self._hits = 0
        self._observed = -math.inf

    def observe(self, now: float | None = None) -> None:
        """Note how full the engine is, and what happened: always, or given a time only now and then."""
        if now is not None:
            if now - self._observed < _OBSERVE_EVERY_S:
                return
            self._observed = now
        scheduler, blocks = self._scheduler, self._scheduler.blocks
        WAITING.set(len(scheduler.waiting))
        RUNNING.set(len(scheduler.running))
        KV_TOKENS.set(scheduler.kv_tokens)
        KV_USAGE.set(blocks.used / blocks.total)
        KV_REUSABLE.set(blocks.cached / blocks.total)
        PREEMPTIONS.inc(scheduler.preemptions - self._preemptions)
        PREFIX_QUERIES.inc(scheduler.prefix_queries - self._queries)
        PREFIX_HITS.inc(scheduler.prefix_hits - self._hits)
        self._preemptions = scheduler.preemptions
        self._queries, self._hits = scheduler.prefix_queries, scheduler.prefix_hits


def observe_latency(since_open_s: float, since_last_s: float | None) -> None:
    """Note that tokens came: the first of their answer (`since_last_s` None), or later ones."""
    if since_last_s is None:
        TTFT_SECONDS.observe(since_open_s)
    else:
        ITL_SECONDS.observe(since_last_s)


def observe_drafts(drafted: int, accepted: int) -> None:
    """Note guesses, and how many of them proved right."""
    DRAFTED.inc(drafted)
    ACCEPTED.inc(accepted)


def observe_finish(finished: Finished) -> None:
    """Note a request whose answers are complete."""
    usage, timings = finished.usage, finished.timings
    REQUESTS.labels(finished.choices[0].reason.name.lower()).inc()
    PROMPT_TOKENS.inc(usage.prompt_tokens)
    VISUAL_TOKENS.inc(usage.visual_tokens)
    QUEUE_SECONDS.observe(timings.queue_s)
    if usage.visual_tokens:
        TILE_WAIT_SECONDS.observe(timings.tile_wait_s)
