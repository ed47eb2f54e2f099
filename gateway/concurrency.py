"""Bounded pipes between tasks, and tasks that fail together with one plain error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from internvl.errors import DeadlineExceeded

T = TypeVar("T")

Emit = Callable[[T], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _End:
    error: Exception | None


class Pipe(Generic[T]):
    """Iterate over it for what the producer emits; its error is raised where its items end."""

    def __init__(self, size: int) -> None:
        self._queue: asyncio.Queue[T | _End] = asyncio.Queue(size)

    async def fill(self, produce: Callable[[Emit[T]], Awaitable[object]]) -> None:
        """Run the producer to its end."""
        error: Exception | None = None
        try:
            await produce(self._queue.put)
        except Exception as raised:
            error = raised
        await self._queue.put(_End(error))

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            item = await self._queue.get()
            if not isinstance(item, _End):
                yield item
            elif item.error is not None:
                raise item.error
            else:
                return


@asynccontextmanager
async def piped(
    produce: Callable[[Emit[T]], Awaitable[object]], size: int
) -> AsyncIterator[tuple[Pipe[T], asyncio.Task[None]]]:
    """Run `produce(emit)` in a task of its own, at most `size` items ahead of the consumer.

    Yields the pipe to read from and the task, which ends with the block at the latest.
    """
    pipe: Pipe[T] = Pipe(size)
    task = asyncio.create_task(pipe.fill(produce))
    try:
        yield pipe, task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A `TaskGroup` that raises the first error itself instead of a group of one."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None


async def together(work: Iterable[Coroutine[object, object, T]], most: int | None = None) -> list[T]:
    """Run all at once, or `most` at a time, and return their results in order; the first error cancels the
    rest and is raised."""
    items = list(work)
    if len(items) <= 1:
        return [await item for item in items]  # most turns: a task costs more than what it would do
    places = asyncio.Semaphore(len(items) if most is None else most)
    async with task_group() as group:
        tasks = [group.create_task(_in_place(item, places)) for item in items]
    return [task.result() for task in tasks]


async def _in_place(item: Coroutine[object, object, T], places: asyncio.Semaphore) -> T:
    try:
        async with places:
            return await item
    finally:
        item.close()  # or it would complain that it never ran


async def unless_idle(items: AsyncIterator[T], idle_s: float) -> AsyncIterator[T]:
    """The same items.

    Raises:
        DeadlineExceeded: the next one did not come in time.
    """
    while True:
        try:
            async with asyncio.timeout(idle_s):
                item = await anext(items)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise DeadlineExceeded(
                f"nothing of the upload has arrived for {idle_s:g} s; send it again"
            ) from None
        yield item
