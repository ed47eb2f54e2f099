"""This project as users have it, three services over gRPC: `python -m benchmarks.peers.programs.services`."""

from __future__ import annotations

import argparse
import io
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks.peers.orders import Arrivals, PictureOrder, TextOrder, words
from benchmarks.peers.pieces import KV_BUDGET_GIB
from benchmarks.peers.programs.picture import picture_of
from benchmarks.peers.programs.session import serve
from deploy.launcher import LaunchConfig, launch
from internvl_client import Client
from internvl_client.answer import Delta
from internvl_client.options import SayOptions
from internvl_client.stream import ChatStream

_READY_S = 900.0
_TIMEOUT_S = 1800.0


class Services:
    """A running stack and a client of its gateway."""

    def __init__(self, model: Path, weights: str, threads: int) -> None:
        os.environ |= {
            "INTERNVL_LLM_KV_BUDGET": f"{KV_BUDGET_GIB}GiB",
            "INTERNVL_LLM_CONTEXT_LIMIT": "4096",
        }
        config = LaunchConfig(
            model=model, weights=weights, ports=None, threads=threads, ready_timeout_s=_READY_S
        )
        with ExitStack() as exits:
            self._stack = exits.enter_context(launch(config))
            self._client = exits.enter_context(Client(self._stack.gateway_address, timeout=_TIMEOUT_S))
            self._exits = exits.pop_all()

    def text(self, order: TextOrder) -> Arrivals:
        """See `TextEngine.text`."""
        draw = random.Random(order.seed)
        asked = [self._prompt(order.prompt_tokens, draw) for _ in range(order.streams)]

        def answer(each: tuple[str, str]) -> list[float]:
            system, text = each
            began = time.perf_counter()
            return _arrivals(self._client.chat(text, system=system, **_exactly(order.answer_tokens)), began)

        with ThreadPoolExecutor(order.streams) as pool:
            return list(pool.map(answer, asked))

    def picture(self, order: PictureOrder) -> Arrivals:
        """See `PictureEngine.picture`."""
        first, again, other = order.questions()
        file = io.BytesIO()
        picture_of(order).save(file, "PNG")
        shown = SayOptions(images=[file.getvalue()])
        arrivals = []
        talk, another = self._client.conversation(), self._client.conversation()
        turns = ((talk, first, shown), (talk, again, SayOptions()), (another, other, shown))
        for conversation, question, options in turns:
            began = time.perf_counter()
            asked: SayOptions = {**options, **_exactly(order.answer_tokens)}
            stream = conversation.say(question, **asked)
            arrivals.append(_arrivals(stream, began))
        return arrivals

    def pids(self) -> list[int]:
        """Of all three services."""
        return [process.pid for process in self._stack.processes.values()]

    def close(self) -> None:
        """See `Engine.close`."""
        self._exits.close()

    def _prompt(self, tokens: int, draw: random.Random) -> tuple[str, str]:
        """Instructions and a question that make a prompt of so many tokens, of which nothing is cached."""
        system = words(draw, 4)
        text = words(draw, tokens)
        while self._tokens(system, text) > tokens:
            text = text[: -max(1, (self._tokens(system, text) - tokens) // 2)].rstrip()
        while self._tokens(system, text) < tokens:
            text += " a"
        return system, text

    def _tokens(self, system: str, text: str) -> int:
        return self._client.plan(text, system=system).prompt_tokens


def _exactly(tokens: int) -> SayOptions:
    """As long as asked for: whatever would end the answer is held off."""
    return SayOptions(max_tokens=tokens, min_tokens=tokens)


def _arrivals(stream: ChatStream, began: float) -> list[float]:
    return list(_token_times(stream, began))


def _token_times(stream: ChatStream, began: float) -> Iterator[float]:
    """When each token came; those that were held back until they made a character come with it."""
    for event in stream.events():
        if isinstance(event, Delta):
            now = time.perf_counter() - began
            yield from (now for _ in event.token_ids)


def _open(args: argparse.Namespace) -> tuple[str, Services]:
    return "internvl-serve", Services(Path(args.model), args.weights, args.threads)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--weights", required=True, help="how they are kept, as `ModelChoice.weights`")
    serve(_open, parser)
