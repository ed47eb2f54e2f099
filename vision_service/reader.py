"""Clients that do not read what they asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from internvl.errors import Overloaded
from vision_service import metrics


class SlowReader(Overloaded):
    """The client did not read its answer in time."""

    reason = "SLOW_READER"


class Reader:
    """Watches how one client takes its messages."""

    def __init__(self, timeout_s: float, on_stall: Callable[[], None]) -> None:
        """
        Args:
            timeout_s: most seconds for one message.
            on_stall: frees what the call holds. A status cannot overtake a message that is not read, so the
                call itself ends only when the client reads on or leaves.
        """
        self._timeout_s = timeout_s
        self._on_stall = on_stall
        self._is_stalled = False

    @contextmanager
    def taking(self) -> Iterator[None]:
        """Hand over one message inside the block.

        Raises:
            SlowReader: it took too long.
        """
        timer = asyncio.get_running_loop().call_later(self._timeout_s, self._cut)
        try:
            yield
        finally:
            timer.cancel()
        if self._is_stalled:
            raise SlowReader(
                f"a message of the answer was not read within {self._timeout_s:g} s",
                retry_after_s=1.0,
                metadata={"reader_timeout_s": self._timeout_s},
            )

    def _cut(self) -> None:
        self._is_stalled = True
        metrics.SLOW_READERS.inc()
        self._on_stall()
