"""What a user sees through the three services: time to the first text of both turns of a conversation.

The first turn uploads a picture that nobody has seen and has it encoded; the second asks again.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence

import grpc
from tqdm import tqdm

from benchmarks.engine.drawings import LARGE, Drawing, drawings
from benchmarks.engine.turns import GOAL
from benchmarks.engine.visuals import Visual, encode
from benchmarks.report import Row
from deploy.launcher import Stack
from internvl_client import Client, Conversation, Image
from internvl_client.options import SayOptions

_CONVERSATIONS = 16
_UNSEEN = 100  # number of the first drawing, beyond those that the engine is asked about
_RELEASED_MAX_TILES = 12


class ServiceTurns:
    """Conversations of two turns through the gateway, one after another."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def rows(self) -> Iterator[Row]:
        """Measure with as many tiles as the released models make, then with the embedded model's own."""
        times = self._times(drawings(_CONVERSATIONS, _UNSEEN, LARGE), _RELEASED_MAX_TILES)
        share = _median_share(times)
        goal = f"goal <= {GOAL}; first turn with a new picture of 13 tiles, through the services"
        yield Row("ttft_turn2_over_turn1", share, "x", goal, share / GOAL)
        first, second = (1e3 * statistics.median(each) for each in zip(*times, strict=True))
        yield Row("ttft_turn1_ms", first, "ms", "picture of 13 tiles uploaded and encoded")
        yield Row("ttft_turn2_ms", second, "ms", "prefix cached")
        share = _median_share(self._times(drawings(_CONVERSATIONS, _UNSEEN), None))
        yield Row("ttft_turn2_over_turn1_7_tiles", share, "x", "first turn with a new picture of 7 tiles")

    def _times(self, drawn: Sequence[Drawing], max_tiles: int | None) -> list[tuple[float, float]]:
        """Of each conversation but the first, which only wakes the services; see `_conversation`."""
        with Client(self._stack.gateway_address) as client:
            progress = tqdm(drawn, desc="conversations", unit="conversation", leave=False)
            return [_conversation(client, drawing, max_tiles) for drawing in progress][1:]

    def visuals(self, drawn: Sequence[Drawing]) -> list[Visual]:
        """Have pictures encoded, for the engine to be asked about them later."""
        with grpc.insecure_channel(self._stack.vision_address) as channel:
            return [encode(channel, drawing.png) for drawing in tqdm(drawn, desc="encode", leave=False)]


def _conversation(client: Client, drawing: Drawing, max_tiles: int | None) -> tuple[float, float]:
    """Seconds to the first text of both turns."""
    conversation = client.conversation()
    first = _first_text_s(
        conversation, drawing.caption, {"images": [Image(drawing.png, max_tiles=max_tiles)]}
    )
    second = _first_text_s(conversation, drawing.questions[0], {})
    conversation.delete()
    return first, second


def _median_share(times: Sequence[tuple[float, float]]) -> float:
    return statistics.median(second / first for first, second in times)


def _first_text_s(conversation: Conversation, question: str, shown: SayOptions) -> float:
    began = time.perf_counter()
    stream = conversation.say(question, **shown)
    next(iter(stream), None)  # an answer may be empty
    seconds = time.perf_counter() - began
    stream.result()
    return seconds
