"""An engine for tests of the race: a program as real ones are, with answers that are known beforehand."""

from __future__ import annotations

import argparse

from benchmarks.peers.orders import Arrivals, PictureOrder, TextOrder
from benchmarks.peers.programs.picture import picture_of
from benchmarks.peers.programs.session import Engine, InProcess, serve


class Metronome(InProcess):
    """The first token after a second, then one every `beat` seconds; none of that time passes."""

    def __init__(self, beat: float) -> None:
        self._beat = beat

    def text(self, order: TextOrder) -> Arrivals:
        print("engines print what they like")
        times = [1 + self._beat * number for number in range(order.answer_tokens)]
        return [times for _ in range(order.streams)]


class Viewer(InProcess):
    """Answers about pictures alone, at once."""

    def picture(self, order: PictureOrder) -> Arrivals:
        assert picture_of(order).size == (order.side, order.side)
        return [[0.0] * order.answer_tokens for _ in order.questions()]


def _open(args: argparse.Namespace) -> tuple[str, Engine]:
    if args.broken:
        raise RuntimeError("this engine never starts")
    return ("viewer 1", Viewer()) if args.viewer else ("metronome 1", Metronome(args.beat))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--beat", type=float, default=0.1)
    parser.add_argument("--broken", action="store_true")
    parser.add_argument("--viewer", action="store_true")
    serve(_open, parser)
