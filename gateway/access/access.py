"""Who may call: API keys and tokens, for every door."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from gateway.access.api_keys import Allowance, ApiKeys
from gateway.access.limiter import Limiter
from gateway.access.tokens import TokenConfig, Tokens
from gateway.caller import ANYBODY, Caller
from internvl.errors import InvalidField, Unauthenticated

_SCHEME = "bearer "
# A longer one is neither a key nor a token of ours, and not worth hashing.
_MAX_BEARER = 8192


@dataclass(frozen=True, slots=True)
class AccessConfig:
    """Who may call. With neither keys nor tokens, anybody may, and all are one tenant.

    Attributes:
        api_keys: the keys' file, or `env:NAME`; None for no keys.
        tokens: which tokens are taken; None for none.
        allowance: of every bearer of a token, and of keys that say nothing of their own.
    """

    api_keys: str | None = None
    tokens: TokenConfig | None = None
    allowance: Allowance = field(default_factory=Allowance)


class Access:
    """Turns what a request shows into a `Caller`, within its allowance."""

    def __init__(self, config: AccessConfig) -> None:
        """Read keys and secrets.

        Raises:
            ConfigError: they cannot be read or used; names the flag.
        """
        self._keys = ApiKeys(config.api_keys) if config.api_keys is not None else None
        self._tokens = Tokens(config.tokens) if config.tokens is not None else None
        self._default = config.allowance
        self._limiter = Limiter()

    @property
    def required(self) -> bool:
        """Whether a call must show a key or a token."""
        return self._keys is not None or self._tokens is not None

    @property
    def counts(self) -> bool:
        """Whether calls must be let in one by one: they show a key, or are counted."""
        return self.required or self._default != Allowance()

    def identify(self, bearer: str | None) -> Caller:
        """Who shows this key or token; None is who shows nothing.

        Raises:
            Unauthenticated: it is not known, or none is shown where one is required.
        """
        if not self.required:
            return ANYBODY
        if not bearer:
            raise Unauthenticated("show an API key or a token: `authorization: Bearer KEY`")
        if len(bearer) <= _MAX_BEARER:
            if self._keys is not None and (key := self._keys.find(bearer)) is not None:
                return key.caller
            if self._tokens is not None and bearer.count(".") == 2:
                return self._tokens.check(bearer)
        raise Unauthenticated("the API key is not known")

    @asynccontextmanager
    async def admitted(self, caller: Caller) -> AsyncIterator[None]:
        """Count a call of this caller, which is under way as long as the block.

        Raises:
            Overloaded: its allowance is used up; says when to try again.
        """
        async with self._limiter.admitted(caller, self._allowance(caller)):
            yield

    @contextmanager
    def turn(self, caller: Caller, priority: int) -> Iterator[None]:
        """Count a turn of this caller, which is under way as long as the block, whatever became of its call.

        Raises:
            InvalidField: its key may not ask for this priority.
            Overloaded: its key has as many turns under way as it may.
        """
        allowance = self._allowance(caller)
        greatest = allowance.max_priority
        if greatest is not None and priority > greatest:
            raise InvalidField(
                "priority",
                f"this key may ask for at most {greatest}, got {priority}",
                metadata={"limit": greatest},
            )
        with self._limiter.turn(caller, allowance):
            yield

    def charge(self, caller: Caller) -> None:
        """Count what came within another call of this caller as a call of its own.

        Raises:
            Overloaded: its rate is used up; says when to try again.
        """
        self._limiter.charge(caller, self._allowance(caller))

    def most_turns(self, caller: Caller) -> int | None:
        """How many turns this caller may have under way; None for any number."""
        return self._allowance(caller).concurrency

    def _allowance(self, caller: Caller) -> Allowance:
        own = self._keys.allowance(caller) if self._keys is not None else None
        return self._default if own is None else own.or_else(self._default)


class GrpcGuard:
    """Lets gRPC calls in, and remembers who calls for the handler that runs within."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._caller: ContextVar[Caller] = ContextVar("caller")

    @property
    def caller(self) -> Caller:
        """Who makes the call that is being handled."""
        return self._caller.get() if self._access.required else ANYBODY

    @asynccontextmanager
    async def __call__(self, metadata: Mapping[str, str]) -> AsyncIterator[None]:
        """Let a call with this metadata in, for as long as the block runs; raises as `Access` does."""
        caller = self._access.identify(bearer_of(metadata.get("authorization")))
        async with self._access.admitted(caller):
            self._caller.set(caller)
            yield


def bearer_of(authorization: str | None) -> str | None:
    """The key or token of an `authorization: Bearer ...`; None if it is none."""
    if authorization is None or not authorization.lower().startswith(_SCHEME):
        return None
    return authorization[len(_SCHEME) :].strip()
