"""Progress of long transfers, in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tqdm import tqdm


class ProgressHook(Protocol):
    """Called after each tensor or block."""

    def __call__(self, done: int, total: int) -> None:
        """`done` of `total` bytes are through."""


@contextmanager
def progress_bar(description: str) -> Iterator[ProgressHook]:
    """A bar on stderr, in bytes; on a pipe it stays quiet."""
    with tqdm(desc=description, unit="B", unit_scale=True, unit_divisor=1024, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
