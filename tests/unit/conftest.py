"""The native operators at each instruction set, where they can be built; and stores of each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.redis_server import RedisServer
from tests.unit.store_samples import STORES, Open, two_gateways

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


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=STORES)
def open_stores(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """An empty store of each kind."""
    where = {"memory": "memory", "file": str(tmp_path / "conversations.db")}
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis")
        server.flush()
        where["redis"] = server.url
    return two_gateways(where[request.param])
