"""A turn that goes on without its client: its events are kept, so that whoever attaches reads on."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import AsyncIterator, Callable

from internvl.errors import FailedPrecondition, ServingError
from internvl.v1 import chat_service_pb2


class TurnState(enum.Enum):
    """How far a turn has come."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class LiveTurn:
    """One turn and its latest events.

    Attributes:
        turn_id: names it.
        tenant: whose it is.
        state: how far it has come.
        error: what it failed with, once it has.
        result: its result, once it is done.
        last_event_id: number of its last event; 0 before the first.
        kept_bytes: size of the events kept.
    """

    def __init__(self, turn_id: str, tenant: str, kept: Callable[[LiveTurn, int], None]) -> None:
        """Begin; `kept(turn, size)` is called when an event is added."""
        self.turn_id = turn_id
        self.tenant = tenant
        self.state = TurnState.RUNNING
        self.error: ServingError | None = None
        self.result: chat_service_pb2.ChatResult | None = None
        self.last_event_id = 0
        self.kept_bytes = 0
        self._texts: list[str] = []
        self._encoding: dict[int, chat_service_pb2.EncodingProgress] = {}
        self._events: deque[tuple[chat_service_pb2.ChatResponse, int]] = deque()
        self._kept = kept
        self._changed = asyncio.Event()

    @property
    def text(self) -> str:
        """The first answer so far."""
        return "".join(self._texts)

    @property
    def encoding(self) -> tuple[chat_service_pb2.EncodingProgress, ...]:
        """How far the encoding of each new item has come."""
        return tuple(self._encoding[index] for index in sorted(self._encoding))

    @property
    def spare_bytes(self) -> int:
        """Size of the events kept that later ones have followed."""
        return self.kept_bytes - self._events[-1][1] if self._events else 0

    async def emit(self, event: chat_service_pb2.ChatResponse) -> None:
        """Add the next event."""
        match event.WhichOneof("event"):
            case "delta" if event.delta.choice == 0:
                self._texts.append(event.delta.text)
            case "encoding":
                self._encoding[event.encoding.visual_index] = event.encoding
            case "result":
                self.result = event.result
        size = event.ByteSize()
        self._events.append((event, size))
        self.last_event_id = event.event_id
        self.kept_bytes += size
        self._kept(self, size)
        self._wake()

    def end(self, state: TurnState, error: ServingError | None = None) -> None:
        """Note how it ended."""
        self.state, self.error = state, error
        self._wake()

    def drop_oldest(self) -> int:
        """Forget the oldest event; its size, 0 if none is to spare: who reads must get the latest one."""
        if len(self._events) <= 1:
            return 0
        _, size = self._events.popleft()
        self.kept_bytes -= size
        return size

    async def read(self, after: int) -> AsyncIterator[chat_service_pb2.ChatResponse]:
        """The events behind one, those kept first, then those still to come.

        Raises:
            FailedPrecondition: they are no longer kept, or the reader fell too far behind.
            ServingError: what the turn failed with.
        """
        while True:
            changed = self._changed
            while (event := self._next(after)) is not None:
                after = event.event_id
                yield event
            if self.error is not None:
                raise self.error
            if self.state is not TurnState.RUNNING:
                return
            await changed.wait()

    def _next(self, after: int) -> chat_service_pb2.ChatResponse | None:
        dropped = self.last_event_id - len(self._events)
        if after < dropped:
            raise FailedPrecondition(
                f"after_event_id: events up to {dropped} are no longer kept; GetTurn tells the text so far",
                metadata={"first_event_id": dropped + 1},
            )
        index = after - dropped
        return self._events[index][0] if index < len(self._events) else None

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
