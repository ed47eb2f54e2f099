"""What the language tier counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from llm_service.engine.events import FinishReason, Timings, Usage
    from llm_service.engine.scheduler import Scheduler

WAITING = Gauge("internvl_llm_requests_waiting", "Requests in the queue.")
RUNNING = Gauge("internvl_llm_requests_running", "Requests that hold a running place.")
KV_TOKENS = Gauge("internvl_llm_kv_tokens", "Tokens of KV cache booked by running requests.")
KV_BUDGET = Gauge("internvl_llm_kv_budget_tokens", "Tokens that the KV cache may hold.")
REQUESTS = Counter(
    "internvl_llm_requests", "Ended requests: stop, length, failed, refused, cancelled.", ["outcome"]
)
PROMPT_TOKENS = Counter("internvl_llm_prompt_tokens", "Prompt tokens of complete answers.")
VISUAL_TOKENS = Counter("internvl_llm_visual_tokens", "Visual tokens of complete answers.")
GENERATED_TOKENS = Counter("internvl_llm_generated_tokens", "Tokens generated.")
ROPE_RECOMPUTES = Counter(
    "internvl_llm_rope_recomputes", "Caches computed anew because a sequence outgrew the short rope regime."
)

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
QUEUE_SECONDS = Histogram("internvl_llm_queue_seconds", "From open to the first step.", buckets=_SECONDS)
TTFT_SECONDS = Histogram("internvl_llm_ttft_seconds", "From open to the first token.", buckets=_SECONDS)
ITL_SECONDS = Histogram(
    "internvl_llm_inter_token_seconds", "From one token of an answer to the next.", buckets=_SECONDS
)
TILE_WAIT_SECONDS = Histogram(
    "internvl_llm_tile_wait_seconds", "Time an answer stood still for tiles.", buckets=_SECONDS
)
STEP_SECONDS = Histogram("internvl_llm_step_seconds", "One forward pass of the engine.", buckets=_SECONDS)


def observe_scheduler(scheduler: Scheduler) -> None:
    """Note how full the engine is."""
    WAITING.set(len(scheduler.waiting))
    RUNNING.set(len(scheduler.running))
    KV_TOKENS.set(scheduler.kv_tokens)


def observe_token(since_open_s: float, since_last_s: float | None) -> None:
    """Note a token: the first of its answer (`since_last_s` None), or a later one."""
    GENERATED_TOKENS.inc()
    if since_last_s is None:
        TTFT_SECONDS.observe(since_open_s)
    else:
        ITL_SECONDS.observe(since_last_s)


def observe_finish(reason: FinishReason, usage: Usage, timings: Timings) -> None:
    """Note a complete answer."""
    REQUESTS.labels(reason.name.lower()).inc()
    PROMPT_TOKENS.inc(usage.prompt_tokens)
    VISUAL_TOKENS.inc(usage.visual_tokens)
    QUEUE_SECONDS.observe(timings.queue_s)
    if usage.visual_tokens:
        TILE_WAIT_SECONDS.observe(timings.tile_wait_s)
