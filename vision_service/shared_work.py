"""Work that several callers need at the same time, done once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(slots=True, eq=False)
class _Work(Generic[Value]):
    task: asyncio.Task[Value]
    users: int = 0


class SharedWork(Generic[Key, Value]):
    """Results by key, each alive while somebody uses it. Belongs to one event loop.

    The work is nobody's own: it goes on as long as one of those who asked for it is left, and is cancelled
    with the last. What fails, fails for those who wait; whoever comes later has it done anew.
    """

    def __init__(self) -> None:
        self._works: dict[Key, _Work[Value]] = {}

    @contextmanager
    def use(self, key: Key, do: Callable[[], Awaitable[Value]]) -> Iterator[Awaitable[Value]]:
        """Inside the block, have the result of `do`, which is called unless its work is under way or in use.

        Yields:
            What to wait for, once. Raises whatever `do` raises.
        """
        work = self._works.get(key)
        if work is None:
            work = self._works[key] = _Work(asyncio.ensure_future(_coroutine(do)))
            work.task.add_done_callback(lambda task: self._forget_failed(key, task))
        work.users += 1
        try:
            yield asyncio.shield(work.task)
        finally:
            work.users -= 1
            if not work.users:
                self._forget(key, work.task)
                work.task.cancel()

    def _forget_failed(self, key: Key, task: asyncio.Task[Value]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._forget(key, task)

    def _forget(self, key: Key, task: asyncio.Task[Value]) -> None:
        if key in self._works and self._works[key].task is task:
            del self._works[key]


async def _coroutine(do: Callable[[], Awaitable[Value]]) -> Value:
    return await do()
