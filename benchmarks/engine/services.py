"""What a user sees through the three services: time to the first text of both turns of a conversation.

The first turn uploads a picture that nobody has seen and has it encoded; the second asks again.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence

import grpc
from tqdm import tqdm

from benchmarks.engine.drawings import Drawing
from benchmarks.engine.turns import GOAL
from benchmarks.engine.visuals import Visual, encode
from benchmarks.report import Row
from deploy.launcher import Stack
from internvl_client import Client, Conversation, Image
from internvl_client.options import SayOptions


class ServiceTurns:
    """Conversations of two turns through the gateway, one after another."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def rows(self, drawn: Sequence[Drawing]) -> Iterator[Row]:
        """Measure; the first drawing only wakes the services."""
        with Client(self._stack.gateway_address) as client:
            progress = tqdm(drawn, desc="conversations", unit="conversation", leave=False)
            _, *times = [_conversation(client, drawing) for drawing in progress]
        first, second = (statistics.median(each) for each in zip(*times, strict=True))
        share = statistics.median(later / sooner for sooner, later in times)
        goal = f"goal <= {GOAL}; first turn with a new picture, through the services"
        yield Row("ttft_turn2_over_turn1", share, "x", goal, share / GOAL)
        yield Row("ttft_turn1_ms", 1e3 * first, "ms", "picture of 7 tiles uploaded and encoded")
        yield Row("ttft_turn2_ms", 1e3 * second, "ms", "prefix cached")

    def visuals(self, drawn: Sequence[Drawing]) -> list[Visual]:
        """Have pictures encoded, for the engine to be asked about them later."""
        with grpc.insecure_channel(self._stack.vision_address) as channel:
            return [encode(channel, drawing.png) for drawing in tqdm(drawn, desc="encode", leave=False)]


def _conversation(client: Client, drawing: Drawing) -> tuple[float, float]:
    """Seconds to the first text of both turns."""
    conversation = client.conversation()
    first = _first_text_s(conversation, drawing.caption, {"images": [Image(drawing.png)]})
    second = _first_text_s(conversation, drawing.questions[0], {})
    conversation.delete()
    return first, second


def _first_text_s(conversation: Conversation, question: str, shown: SayOptions) -> float:
    began = time.perf_counter()
    stream = conversation.say(question, **shown)
    next(iter(stream), None)  # an answer may be empty
    seconds = time.perf_counter() - began
    stream.result()
    return seconds
