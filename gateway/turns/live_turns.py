"""All turns that go on without their clients, and for how long they are kept behind their end."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway import metrics
from gateway.concurrency import Emit
from gateway.turns.live_turn import LiveTurn, TurnState
from internvl.errors import Cancelled, InternalError, NotFound, Overloaded, ServingError
from internvl.telemetry import get_logger
from internvl.v1 import chat_service_pb2

_RETRY_AFTER_S = 1.0

_log = get_logger("turns")

Produce = Callable[[Emit[chat_service_pb2.ChatResponse]], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class TurnConfig:
    """How many turns may go on without their clients, and what is kept of them.

    Attributes:
        most_running: of them at the same time.
        longest_s: time that one may take.
        keep_s: time for which its events can be read behind its end.
        most_bytes: events of all of them; turns that have ended go first, then the oldest events of whichever
            keeps most.
        most_turn_bytes: events of one; the oldest go first. The latest one is kept, however large.
    """

    most_running: int = 256
    longest_s: float = 3600.0
    keep_s: float = 300.0
    most_bytes: int = 64 * 2**20
    most_turn_bytes: int = 8 * 2**20


class LiveTurns:
    """The turns of this gateway; another one knows nothing of them."""

    def __init__(self, config: TurnConfig) -> None:
        self._config = config
        self._turns: OrderedDict[str, LiveTurn] = OrderedDict()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._bytes = 0

    @property
    def longest_s(self) -> float:
        """Time that a turn may take."""
        return self._config.longest_s

    @property
    def kept_bytes(self) -> int:
        """Size of all events kept."""
        return self._bytes

    def start(self, turn_id: str, tenant: str, produce: Produce) -> LiveTurn:
        """Run `produce(emit)` as a turn.

        Raises:
            Overloaded: too many run.
        """
        limit = self._config.most_running
        if len(self._tasks) >= limit:
            raise Overloaded(
                f"{limit} turns run in the background already; ask again later",
                retry_after_s=_RETRY_AFTER_S,
                metadata={"limit": limit},
            )
        turn = LiveTurn(turn_id, tenant, self._kept)
        self._turns[turn_id] = turn
        self._tasks[turn_id] = asyncio.create_task(self._run(turn, produce))
        metrics.LIVE_TURNS.set(len(self._tasks))
        return turn

    def get(self, turn_id: str, tenant: str) -> LiveTurn:
        """A turn of a tenant.

        Raises:
            NotFound: there is none of this name, or it is another tenant's.
        """
        turn = self._turns.get(turn_id)
        if turn is None or turn.tenant != tenant:
            raise NotFound(
                "turn_id: no turn of this name runs or is kept here; a background or resumable turn is known "
                "to the gateway that runs it alone, while it runs and for a while after"
            )
        return turn

    def when_ended(self, turn: LiveTurn, call: Callable[[], object]) -> None:
        """Have something called when a turn that runs has ended, however it does."""
        self._tasks[turn.turn_id].add_done_callback(lambda _: call())

    async def cancel(self, turn: LiveTurn) -> None:
        """End a turn and wait until it has; nothing happens to one that has ended."""
        task = self._tasks.get(turn.turn_id)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def close(self) -> None:
        """End all turns."""
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())

    async def _run(self, turn: LiveTurn, produce: Produce) -> None:
        try:
            await produce(turn.emit)
            turn.end(TurnState.DONE)
        except asyncio.CancelledError:
            turn.end(TurnState.CANCELLED, Cancelled("the turn was cancelled"))
        except ServingError as error:
            turn.end(TurnState.FAILED, error)
        except Exception:
            _log.error("turn failed", turn_id=turn.turn_id, exc_info=True)
            turn.end(TurnState.FAILED, InternalError("the server failed; its log has the details"))
        finally:
            del self._tasks[turn.turn_id]
            metrics.LIVE_TURNS.set(len(self._tasks))
            asyncio.get_running_loop().call_later(self._config.keep_s, self._forget, turn)

    def _kept(self, turn: LiveTurn, size: int) -> None:
        """Make room for an event that came."""
        self._bytes += size
        while turn.kept_bytes > self._config.most_turn_bytes and (dropped := turn.drop_oldest()):
            self._bytes -= dropped
        while self._bytes > self._config.most_bytes and self._drop_something():
            pass
        metrics.LIVE_TURN_BYTES.set(self._bytes)

    def _drop_something(self) -> bool:
        """Forget a turn that has ended or, if all run, an event; whether there was any to spare."""
        ended = next((turn for turn in self._turns.values() if turn.state is not TurnState.RUNNING), None)
        if ended is not None:
            self._forget(ended)
            return True
        dropped = max(self._turns.values(), key=lambda turn: turn.spare_bytes).drop_oldest()
        self._bytes -= dropped
        return dropped > 0

    def _forget(self, turn: LiveTurn) -> None:
        if self._turns.pop(turn.turn_id, None) is not None:
            self._bytes -= turn.kept_bytes
            metrics.LIVE_TURN_BYTES.set(self._bytes)


@asynccontextmanager
async def open_turns(config: TurnConfig) -> AsyncIterator[LiveTurns]:
    """Turns that may go on until the block ends."""
    turns = LiveTurns(config)
    try:
        yield turns
    finally:
        await turns.close()
