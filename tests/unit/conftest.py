"""The native operators at each instruction set; who asks for them is skipped where they cannot be built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kernels.native.library import Library

LEVELS = ("baseline", "avx2", "avx512", "avx512_bf16")


@pytest.fixture(scope="session")
def library() -> Library:
    from kernels.native.build import BuildError, build
    from kernels.native.library import Library

    try:
        return Library(build())
    except BuildError as error:
        pytest.skip(f"native operators cannot be built here: {error}")


@pytest.fixture(params=LEVELS)
def levelled(request: pytest.FixtureRequest, library: Library) -> Iterator[Library]:
    """The library at each level this processor has."""
    best = library.level
    if not library.use_level(request.param):
        pytest.skip(f"this processor has no {request.param}")
    yield library
    library.use_level(best)
