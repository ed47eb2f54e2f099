"""What a request would meet if it came now."""

from __future__ import annotations

from dataclasses import dataclass

from llm_service.engine.request import VisualNeed


@dataclass(frozen=True, slots=True)
class Estimate:
    """The cache and the queue as one request would find them; nothing was taken or promised.

    Attributes:
        cached_tokens: tokens of its prompt whose keys and values are there.
        needed: embeddings that it would have to be sent.
        blocks: blocks of the cache that prompt and answer would take.
        wait_s: expected wait before it starts, in seconds; 0 while nothing is known of the pace.
    """

    cached_tokens: int
    needed: tuple[VisualNeed, ...]
    blocks: int
    wait_s: float
