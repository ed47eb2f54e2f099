"""Why a request is not taken in, with the numbers."""

from __future__ import annotations

from internvl.errors import FailedPrecondition, Overloaded
from llm_service.engine.limits import EngineLimits
from llm_service.engine.request import Request


class DeadlineTooSoon(Overloaded):
    """The request could not even start before its deadline."""

    reason = "DEADLINE_TOO_SOON"


def refuse_what_never_fits(request: Request, limits: EngineLimits) -> None:
    """Refuse what could never run, however long it waited.

    Raises:
        FailedPrecondition: an answer would outgrow the cache, or there are more answers than running places.
    """
    answers, tokens = request.sampling.n, request.kv_tokens
    if answers > limits.max_running:
        raise FailedPrecondition(
            f"n is {answers}, this server computes at most {limits.max_running} answers at once",
            metadata={"n": answers, "max_running": limits.max_running},
        )
    blocks = limits.blocks_for(tokens)
    if blocks > limits.kv_blocks:
        raise FailedPrecondition(
            f"prompt and max_tokens need {tokens} tokens of KV cache, "
            f"this server has {limits.kv_budget_tokens}",
            metadata={
                "kv_tokens": tokens,
                "kv_budget_tokens": limits.kv_budget_tokens,
                "kv_blocks": blocks,
                "kv_budget_blocks": limits.kv_blocks,
                "kv_block_size": limits.kv_block_size,
            },
        )


def queue_full(limit: int, retry_after_s: float) -> Overloaded:
    return Overloaded(
        f"{limit} requests are waiting, the most this server keeps",
        retry_after_s=retry_after_s,
        metadata={"queue_limit": limit},
    )


def deadline_too_soon(expected_wait_s: float, left_s: float, retry_after_s: float) -> DeadlineTooSoon:
    return DeadlineTooSoon(
        f"a place is expected in {expected_wait_s:.1f} s, the deadline is in {left_s:.1f} s",
        retry_after_s=retry_after_s,
        metadata={"expected_wait_s": f"{expected_wait_s:.3f}", "deadline_in_s": f"{left_s:.3f}"},
    )
