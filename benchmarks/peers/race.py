"""The race: all contestants in turn, every other round backwards, one engine in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from benchmarks.peers.bandwidth import read_bandwidth
from benchmarks.peers.contestants import ONE_PROCESS, Contestant, Start
from benchmarks.peers.engine_process import EngineProcess, running
from benchmarks.peers.failures import NotRunError
from benchmarks.peers.orders import Order, PictureOrder, TextOrder
from benchmarks.peers.pieces import Piece, pieces_of
from benchmarks.peers.progress import say
from benchmarks.peers.record import Record, Sample

Prepare: TypeAlias = Callable[[Contestant], Start]

# Before each piece, work of its kind: nobody's first one counts. A picture of a single tile.
_TEXT_WARM_UP = TextOrder(streams=1, prompt_tokens=48, answer_tokens=4)
_PICTURE_WARM_UP = PictureOrder(side=448, answer_tokens=2)
_WARM_UP_SEEDS = 1_000_000  # apart from those that count


@dataclass(frozen=True, slots=True)
class RaceConfig:
    """How to run it.

    Attributes:
        logs: folder for what the engines print.
        rounds: how often each contestant does each piece.
        parts: which pieces.
        threads: compute threads of every engine, for the bandwidth that they share.
        timeout_s: longest wait for a start or for one piece.
    """

    logs: Path
    rounds: int
    parts: tuple[str, ...]
    threads: int
    timeout_s: float


def run_race(config: RaceConfig, field: Sequence[Contestant], record: Record, prepare: Prepare) -> None:
    """Add to the record whatever of the race it does not hold yet.

    Args:
        prepare: makes ready what a contestant needs, and says how to start it; see `start_of`.
    """
    for number in range(config.rounds):
        for contestant in turn_order(field, number):
            pieces = _pieces(config, contestant, record, number + 1)
            if pieces:
                say(f"round {number + 1} of {config.rounds}: {contestant.name}")
                _take_turn(config, contestant, pieces, record, prepare)


def turn_order(field: Sequence[Contestant], number: int) -> list[Contestant]:
    """Who goes after whom in a round, so that nobody is always the first on a machine that changes."""
    return list(field)[:: -1 if number % 2 else 1]


def _pieces(config: RaceConfig, contestant: Contestant, record: Record, rounds: int) -> list[Piece]:
    parts = tuple(part for part in config.parts if part in _parts_of(contestant))
    return pieces_of(parts, record.done(contestant.name), rounds)


def _parts_of(contestant: Contestant) -> tuple[str, ...]:
    """What is asked of an engine: what it can do and a goal speaks of."""
    if contestant.engine == ONE_PROCESS:
        return ("image",)
    if contestant.engine == "llama":
        return ("decode", "streams")
    if contestant.engine == "transformers":
        return ("decode",)
    return ("decode",) if contestant.form == "w4" else ("decode", "image", "streams", "serve")


def _take_turn(
    config: RaceConfig, contestant: Contestant, pieces: Sequence[Piece], record: Record, prepare: Prepare
) -> None:
    facts = record.of(contestant.name)
    log = config.logs / f"{contestant.name.replace(' ', '-')}.log"
    try:
        start = prepare(contestant)
        record.bandwidth.append(read_bandwidth(config.threads))
        with running(start, log, config.timeout_s) as engine:
            say(f"  ready after {engine.ready_s:.1f} s")
            facts.version = engine.version
            facts.ready_s.append(engine.ready_s)
            facts.not_run.pop("", None)
            for piece in pieces:
                _run_piece(engine, contestant, piece, record)
            facts.peak_bytes = max(facts.peak_bytes, engine.peak_bytes())
    except NotRunError as error:
        facts.not_run[""] = str(error)
        say(f"  not run: {error}")
    record.save()


def _run_piece(engine: EngineProcess, contestant: Contestant, piece: Piece, record: Record) -> None:
    seed = 1 + len(record.samples)
    try:
        warm_up: Order = _TEXT_WARM_UP if isinstance(piece.order, TextOrder) else _PICTURE_WARM_UP
        engine.run(replace(warm_up, seed=_WARM_UP_SEEDS + seed))
        arrivals = engine.run(replace(piece.order, seed=seed))
    except NotRunError as error:
        record.of(contestant.name).not_run[piece.name] = str(error)
        say(f"  {piece.name} not run: {error}")
        return
    record.add(Sample(piece.name, contestant.name, arrivals))
    say(f"  {piece.name}: first token after {arrivals[0][0]:.2f} s, all after {_last(arrivals):.1f} s")


def _last(arrivals: list[list[float]]) -> float:
    return max(times[-1] for times in arrivals)
