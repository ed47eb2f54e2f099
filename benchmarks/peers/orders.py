"""What engines are told to do, and what they answer: arrival times of tokens. Only the standard library here.

Prompts hold random words or ids drawn from the seed of the order, so that no cache knows them; how long an
answer is depends on no model.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeAlias

Arrivals: TypeAlias = list[list[float]]
"""For each request, when each token of its answer came, in seconds from when it was asked."""

# Ids that are ordinary pieces in any vocabulary of a Llama tokenizer.
_FIRST_ID, _LAST_ID = 300, 29_000

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class TextOrder:
    """Answer prompts of text, all at once.

    Attributes:
        streams: how many prompts.
        prompt_tokens: of each, template included.
        answer_tokens: of each, whatever the model would rather do.
    """

    kind: ClassVar[str] = "text"

    streams: int
    prompt_tokens: int
    answer_tokens: int
    seed: int = 0

    def prompts(self) -> list[list[int]]:
        """Token ids of all prompts."""
        draw = random.Random(self.seed)
        return [
            [draw.randrange(_FIRST_ID, _LAST_ID) for _ in range(self.prompt_tokens)]
            for _ in range(self.streams)
        ]


@dataclass(frozen=True, slots=True)
class PictureOrder:
    """Three requests, one after another: about a new picture, about it again in the same conversation, and
    another question about it in a new one.

    Attributes:
        side: of the square picture, in pixels.
        answer_tokens: of each answer.
    """

    kind: ClassVar[str] = "picture"

    side: int
    answer_tokens: int
    seed: int = 0

    def questions(self) -> tuple[str, str, str]:
        """Of the three requests."""
        draw = random.Random(self.seed)
        first, again, other = (words(draw, 8) for _ in range(3))
        return first, again, other


Order: TypeAlias = TextOrder | PictureOrder


def message_of(order: Order) -> dict[str, Any]:
    """What goes to an engine, as JSON has it."""
    return {"kind": order.kind, **asdict(order)}


def order_of(message: dict[str, Any]) -> Order:
    """The order that a message holds."""
    fields = {name: value for name, value in message.items() if name != "kind"}
    return TextOrder(**fields) if message["kind"] == TextOrder.kind else PictureOrder(**fields)


def words(draw: random.Random, count: int) -> str:
    """Made-up words of four letters."""
    return " ".join("".join(draw.choices(_LETTERS, k=4)) for _ in range(count))
