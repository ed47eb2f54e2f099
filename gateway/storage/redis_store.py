"""The store in Redis, for many gateways. What must happen together is one Lua script, which Redis runs alone.

One Redis server, or a primary with replicas; no cluster, because a script touches keys of several slots. It
must keep what it is told: `appendonly yes` and `maxmemory-policy noeviction`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from internvl.errors import ConfigError, Unavailable
from internvl.telemetry import get_logger

if TYPE_CHECKING:
    from redis.asyncio import Redis

PREFIX = "internvl"

# A store that is down must be told from one that is slow, quickly.
_CONNECT_S = 1.0
_ANSWER_S = 3.0
_MAX_CONNECTIONS = 32

_log = get_logger("store")


class RedisServer:
    """A connection pool to one server, and the scripts that run there."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._scripts: dict[str, Any] = {}

    async def run(self, script: str, *arguments: str | bytes | float) -> Any:
        """Run a Lua script, which gets `PREFIX` as its first argument.

        A script may run twice if the connection breaks, so each must do nothing new the second time.

        Raises:
            Unavailable: the server cannot be used; the log says why.
        """
        from redis.exceptions import RedisError

        if script not in self._scripts:
            self._scripts[script] = self._client.register_script(script)
        texts = [repr(argument) if isinstance(argument, float) else argument for argument in arguments]
        try:
            return await self._scripts[script](args=[PREFIX, *texts])
        except (RedisError, OSError) as error:
            _log.error("store failed", problem=type(error).__name__)
            raise Unavailable("the conversation store cannot be used") from error


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[RedisServer]:
    """A connection to the server at `url`, made when it is first needed and again after it was lost.

    Raises:
        ConfigError: this is no URL of a Redis server, or its client is not installed.
    """
    try:
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ImportError:
        raise ConfigError("--store: Redis needs its client; install internvl-serve[gateway]") from None
    try:
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            timeout=_ANSWER_S,
            socket_connect_timeout=_CONNECT_S,
            socket_timeout=_ANSWER_S,
            # Once more: a connection of the pool may have died with a server that is back by now.
            retry=Retry(NoBackoff(), 1),
        )
    except ValueError:
        raise ConfigError("--store: cannot be read as the URL of a Redis server") from None
    client = Redis.from_pool(pool)
    try:
        yield RedisServer(client)
    finally:
        await client.aclose()
