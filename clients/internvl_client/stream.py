"""An answer as it is written, for the synchronous client."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self

from internvl.v1 import chat_service_pb2
from internvl_client.answer import Answer, Delta, Event
from internvl_client.answer_state import AnswerState
from internvl_client.errors import typed_errors


class _Call(Protocol):
    """A streaming call of gRPC, whose own type is private."""

    def __iter__(self) -> Iterator[chat_service_pb2.ChatResponse]: ...

    def cancel(self) -> object: ...


class ChatStream(AnswerState):
    """One answer as it is written: iterate for its text; it adds up meanwhile.

    Leaving a `with` block cancels an answer that is not complete.
    """

    def __init__(self, call: _Call) -> None:
        super().__init__()
        self._call = call

    def __iter__(self) -> Iterator[str]:
        """Pieces of the answer; of several, those of the first.

        Raises:
            InternVLError: whatever ends the answer early; what arrived stays in `text`.
        """
        for event in self.events():
            if isinstance(event, Delta) and event.text and event.choice == 0:
                yield event.text

    def events(self) -> Iterator[Event]:
        """Everything that happens, text included; an `Answer` comes last.

        Raises:
            InternVLError: whatever ends the answer early; what arrived stays in `text`.
        """
        with self._ending_quietly(), typed_errors():
            for response in self._call:
                event = self._add(response)
                if event is not None:
                    yield event

    def result(self) -> Answer:
        """Wait for the complete answer.

        Raises:
            InternVLError: whatever ends it early.
        """
        for _ in self.events():
            pass
        return self._finished()

    def cancel(self) -> None:
        """Stop the answer on all tiers; iteration ends. A complete answer stays as it is."""
        self._note_cancel()
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()
