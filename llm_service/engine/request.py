"""What the engine is asked to do. Checked before it gets here; plain values, no tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Embeddings: TypeAlias = NDArray[Any]
"""One tile, [tokens_per_tile, hidden_size], float32 or bfloat16. The engine never looks inside."""


class TileKey(NamedTuple):
    """Names the embeddings of one tile."""

    visual_id: str
    number: int


@dataclass(frozen=True, slots=True)
class VisualSlot:
    """The place of one tile in a prompt.

    Attributes:
        offset: prompt position of its first visual token.
        length: how many visual tokens it has.
        tile: which embeddings go there. One picture shown twice fills two slots.
    """

    offset: int
    length: int
    tile: TileKey

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class VisualNeed:
    """Embeddings to be sent: tiles `first_tile` to `tiles - 1` of an item."""

    visual_id: str
    first_tile: int
    tiles: int


class Guide(Protocol):
    """Keeps one answer to its grammar."""

    def restrict(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """The logits [vocabulary], or a copy with minus infinity where a token cannot come next.

        Raises:
            InvalidField: to know that is too costly here, or none can.
        """
        ...

    def accept(self, token_id: int) -> None:
        """Take the next token of the answer.

        Raises:
            InvalidField: it cannot come here.
        """
        ...


class Grammar(Protocol):
    """A compiled grammar; many answers may use it at once."""

    def start(self, stop_ids: frozenset[int]) -> Guide:
        """The guide of an answer that is still empty.

        Args:
            stop_ids: end the answer; they may come only where it is complete.
        """
        ...


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen; every field resolved, none unset. Ranges as in the proto's SamplingParams.

    Attributes:
        seed: of the random numbers, 64 bits.
        max_tokens: most tokens to generate, in each answer.
        min_tokens: fewest tokens before a stop id or stop text may end the answer.
        stop_ids: token ids that end the answer, the model's own included.
        stop_texts: texts that end the answer.
        n: answers to generate.
        logit_bias: (token id, what is added to its logit), by rising id.
        logprobs: how many alternatives to report with each token's log-probability; None reports nothing.
        grammar: what the answer has to obey.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    max_tokens: int = 1024
    min_tokens: int = 0
    stop_ids: frozenset[int] = frozenset()
    stop_texts: tuple[str, ...] = ()
    n: int = 1
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One prompt to answer, `sampling.n` times.

    Attributes:
        request_id: its name in logs.
        prompt_ids: the prompt, int64 [prompt tokens]; visual positions hold the image-context id.
        slots: where visual embeddings go, by offset.
        opened: when the caller asked, on the engine's clock in seconds.
        deadline: when the caller stops waiting, on the same clock; None is never.
        priority: higher ones go first.
        delivered_ids: the answer's first tokens, which the caller has already. Only with `sampling.n` 1.
        cache_scope: keys and values are shared only within it: the caller's salt, and the adapter if any.
    """

    request_id: str
    prompt_ids: NDArray[np.int64]
    sampling: SamplingParams
    slots: tuple[VisualSlot, ...] = ()
    opened: float = 0.0
    deadline: float | None = None
    priority: int = 0
    delivered_ids: tuple[int, ...] = ()
    cache_scope: str = ""

    @property
    def prompt_tokens(self) -> int:
        return len(self.prompt_ids)

    @property
    def visual_tokens(self) -> int:
        return sum(slot.length for slot in self.slots)

    @property
    def kv_tokens(self) -> int:
        """Most tokens whose keys and values it can ever hold."""
        return self.prompt_tokens + self.sampling.max_tokens
