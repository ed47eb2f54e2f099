"""What the answers of one turn say so far, as its events tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from internvl.v1 import llm_service_pb2

FINISH_REASONS = {
    llm_service_pb2.FINISH_REASON_STOP: "stop",
    llm_service_pb2.FINISH_REASON_LENGTH: "length",
}


def logprob_items(logprobs: Iterable[llm_service_pb2.TokenLogprob]) -> list[dict[str, Any]]:
    """Log-probabilities of tokens, and of those likeliest in their place. Control tokens are left out."""
    return [
        {**_logprob(item), "top_logprobs": [_logprob(top) for top in item.top]}
        for item in logprobs
        if item.token
    ]


def _logprob(item: llm_service_pb2.TokenLogprob) -> dict[str, Any]:
    return {
        "token": item.token.decode(errors="replace"),
        "logprob": item.logprob,
        "bytes": list(item.token),
    }
