"""The wire's SamplingParams, checked field by field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from secrets import randbits
from typing import TypeVar

from internvl.errors import InvalidField
from internvl.v1 import llm_service_pb2
from llm_service.engine.request import SamplingParams

DEFAULT_MAX_TOKENS = 1024
MAX_STOP_TEXTS = 16
MAX_STOP_CHARS = 256
MAX_CHOICES = 16
MAX_BIASES = 1024
MAX_LOGPROBS = 20

_FIELD = "open.sampling"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Range:
    """Allowed values of a number, and what an unset one means."""

    default: float
    low: float
    high: float
    low_excluded: bool = False

    def __contains__(self, value: float) -> bool:  # false for NaN
        return (self.low < value if self.low_excluded else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        return f"{'above ' if self.low_excluded else ''}{self.low:g} to {self.high:g}"


_RANGES = {
    "temperature": _Range(0, 0, 2),
    "top_p": _Range(1, 0, 1, low_excluded=True),
    "min_p": _Range(0, 0, 1),
    "repetition_penalty": _Range(1, 0, 2, low_excluded=True),
    "presence_penalty": _Range(0, -2, 2),
    "frequency_penalty": _Range(0, -2, 2),
}
_BIAS = _Range(0, -100, 100)


@dataclass(frozen=True, slots=True)
class Room:
    """What is left for an answer.

    Attributes:
        context: tokens of the context that the prompt leaves.
        kv_budget: tokens of the KV budget that the prompt leaves; may be below 1.
    """

    context: int
    kv_budget: int


def read_sampling(
    message: llm_service_pb2.SamplingParams, vocab_size: int, model_stop_ids: frozenset[int], room: Room
) -> SamplingParams:
    """Check a request's sampling parameters and fill in what is unset; all but the grammar.

    An explicit `max_tokens` is cut to the room left in the context.

    Raises:
        InvalidField: a value out of range; the field is a path such as `open.sampling.top_p`.
    """
    numbers = {name: _number(message, name) for name in _RANGES}
    max_tokens = _max_tokens(message, room)
    return SamplingParams(
        temperature=numbers["temperature"],
        top_p=numbers["top_p"],
        min_p=numbers["min_p"],
        repetition_penalty=numbers["repetition_penalty"],
        presence_penalty=numbers["presence_penalty"],
        frequency_penalty=numbers["frequency_penalty"],
        top_k=message.top_k,
        seed=message.seed if message.HasField("seed") else randbits(64),
        max_tokens=max_tokens,
        min_tokens=_min_tokens(message, max_tokens),
        stop_ids=_stop_ids(message, vocab_size, model_stop_ids),
        stop_texts=tuple(_stop_texts(message)),
        n=_count(message, "n", 1, 1, MAX_CHOICES),
        logit_bias=tuple(_logit_bias(message, vocab_size)),
        logprobs=_count(message, "logprobs", None, 0, MAX_LOGPROBS),
    )


def read_delivered(token_ids: Sequence[int], sampling: SamplingParams, vocab_size: int) -> tuple[int, ...]:
    """Check the tokens of an answer that the caller has already.

    Raises:
        InvalidField: more than the answer may have, more than one answer, or ids that the model lacks.
    """
    field = "open.delivered_token_ids"
    if token_ids and sampling.n > 1:
        raise InvalidField(field, f"one answer can be resumed, not sampling.n = {sampling.n}")
    if len(token_ids) > sampling.max_tokens:
        raise InvalidField(
            field, f"must hold at most max_tokens ({sampling.max_tokens}) ids, got {len(token_ids)}"
        )
    for index, token_id in enumerate(token_ids):
        if token_id >= vocab_size:
            raise InvalidField(f"{field}[{index}]", f"must be below {vocab_size}, got {token_id}")
    return tuple(token_ids)


def _number(message: llm_service_pb2.SamplingParams, name: str) -> float:
    allowed = _RANGES[name]
    if not message.HasField(name):  # type: ignore[arg-type]  # the stubs want a literal
        return allowed.default
    value: float = getattr(message, name)
    if value not in allowed:
        raise InvalidField(f"{_FIELD}.{name}", f"must be {allowed}, got {value:g}")
    return value


def _count(message: llm_service_pb2.SamplingParams, name: str, default: T, low: int, high: int) -> int | T:
    if not message.HasField(name):  # type: ignore[arg-type]  # the stubs want a literal
        return default
    value: int = getattr(message, name)
    if not low <= value <= high:
        raise InvalidField(f"{_FIELD}.{name}", f"must be {low} to {high}, got {value}")
    return value


def _max_tokens(message: llm_service_pb2.SamplingParams, room: Room) -> int:
    if not message.HasField("max_tokens"):
        return max(min(DEFAULT_MAX_TOKENS, room.context, room.kv_budget), 1)
    if message.max_tokens < 1:
        raise InvalidField(f"{_FIELD}.max_tokens", "must be at least 1, got 0")
    return min(message.max_tokens, room.context)


def _min_tokens(message: llm_service_pb2.SamplingParams, max_tokens: int) -> int:
    if message.min_tokens > max_tokens:
        raise InvalidField(
            f"{_FIELD}.min_tokens",
            f"must be at most max_tokens and the room left in the context ({max_tokens}), "
            f"got {message.min_tokens}",
        )
    return message.min_tokens


def _stop_ids(
    message: llm_service_pb2.SamplingParams, vocab_size: int, model_stop_ids: frozenset[int]
) -> frozenset[int]:
    for index, token_id in enumerate(message.stop_token_ids):
        if token_id >= vocab_size:
            raise InvalidField(
                f"{_FIELD}.stop_token_ids[{index}]", f"must be below {vocab_size}, got {token_id}"
            )
    stop_ids = model_stop_ids.union(message.stop_token_ids)
    if len(stop_ids) >= vocab_size:
        raise InvalidField(f"{_FIELD}.stop_token_ids", "must leave a token that does not end the answer")
    return stop_ids


def _stop_texts(message: llm_service_pb2.SamplingParams) -> Iterator[str]:
    if len(message.stop) > MAX_STOP_TEXTS:
        raise InvalidField(
            f"{_FIELD}.stop", f"must hold at most {MAX_STOP_TEXTS} texts, got {len(message.stop)}"
        )
    for index, text in enumerate(message.stop):
        if not 1 <= len(text) <= MAX_STOP_CHARS:
            raise InvalidField(
                f"{_FIELD}.stop[{index}]", f"must have 1 to {MAX_STOP_CHARS} characters, got {len(text)}"
            )
        yield text


def _logit_bias(message: llm_service_pb2.SamplingParams, vocab_size: int) -> Iterator[tuple[int, float]]:
    if len(message.logit_bias) > MAX_BIASES:
        raise InvalidField(
            f"{_FIELD}.logit_bias", f"must hold at most {MAX_BIASES} tokens, got {len(message.logit_bias)}"
        )
    for token_id, bias in sorted(message.logit_bias.items()):
        if token_id >= vocab_size:
            raise InvalidField(f"{_FIELD}.logit_bias", f"ids must be below {vocab_size}, got {token_id}")
        if bias not in _BIAS:
            raise InvalidField(f"{_FIELD}.logit_bias[{token_id}]", f"must be {_BIAS}, got {bias:g}")
        yield token_id, bias
