"""What happens around every request: who calls, its body, its end, its errors, its line in the log."""

from __future__ import annotations

import asyncio
import re
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response

from gateway.access.access import Access, bearer_of
from gateway.caller import ANYBODY, Caller
from gateway.deadline import Deadline
from gateway.http import metrics
from gateway.http.errors import error_body, error_headers, http_status
from gateway.http.json_body import BodyReader, ClientGone, Receive
from internvl.errors import DeadlineExceeded, InternalError, ServingError
from internvl.telemetry import get_logger

Send = Callable[[Mapping[str, Any]], Awaitable[None]]

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
_CLIENT_GONE = 499  # never sent; how such requests are counted elsewhere, too

_log = get_logger("http")


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        request_id: its name in logs on every tier.
        caller: who sent it.
        deadline: when it must have ended.
        json: its body; empty where there is none to read.
        path: the variable parts of its path.
        query: what stands behind the path.
        idempotency_key: the `Idempotency-Key` of its head, if it has one.
        body_stored: to be called once its files are stored and its body is held no longer, however long the
            answer takes.
    """

    request_id: str
    caller: Caller
    deadline: Deadline
    json: dict[str, Any]
    path: Mapping[str, str]
    query: Mapping[str, str]
    idempotency_key: str | None
    body_stored: Callable[[], None]


Handler = Callable[[Call], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all endpoints share.

    Attributes:
        bodies: reads bodies within their limits.
        access: who calls, and how much they may.
        timeout_s: longest time for one request.
    """

    bodies: BodyReader
    access: Access
    timeout_s: float


class Endpoint:
    """A handler as an ASGI application.

    A client that leaves ends the handler at once, whatever it waits for, and so the turn on every tier.
    """

    def __init__(
        self,
        route: str,
        handle: Handler,
        around: Surroundings,
        *,
        takes_json: bool = False,
        public: bool = False,
    ) -> None:
        self._route = route
        self._handle = handle
        self._around = around
        self._takes_json = takes_json
        self._public = public

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        exchange = _Exchange(send, _request_id(headers))
        began = time.monotonic()
        try:
            await self._answer(scope, headers, receive, exchange)
        except ClientGone:
            exchange.status = _CLIENT_GONE
        finally:
            metrics.REQUESTS.labels(self._route, exchange.status).inc()
            metrics.REQUEST_SECONDS.labels(self._route).observe(time.monotonic() - began)
            _log.info(
                "request answered",
                route=self._route,
                status=exchange.status,
                request_id=exchange.request_id,
                total_ms=round((time.monotonic() - began) * 1000, 1),
            )

    async def _answer(self, scope: Any, headers: Headers, receive: Receive, exchange: _Exchange) -> None:
        """Read the request and answer it, and turn what goes wrong into an answer, too."""
        try:
            async with self._admitted(headers) as caller, asyncio.timeout(self._around.timeout_s):
                await self._handle_admitted(caller, scope, headers, receive, exchange)
        except ServingError as error:
            await exchange.fail(error, scope, receive)
        except TimeoutError:
            problem = f"the request took over {self._around.timeout_s:g} s"
            await exchange.fail(DeadlineExceeded(problem), scope, receive)
        except ClientGone:
            raise
        except Exception:
            _log.error("request failed", route=self._route, request_id=exchange.request_id, exc_info=True)
            await exchange.fail(InternalError("the server failed; its log has the details"), scope, receive)

    @asynccontextmanager
    async def _admitted(self, headers: Headers) -> AsyncIterator[Caller]:
        if self._public:
            yield ANYBODY
            return
        access = self._around.access
        caller = access.identify(bearer_of(headers.get("authorization")))
        async with access.admitted(caller):
            yield caller

    async def _handle_admitted(
        self, caller: Caller, scope: Any, headers: Headers, receive: Receive, exchange: _Exchange
    ) -> None:
        deadline = Deadline.after(self._around.timeout_s)
        bodies = self._around.bodies
        with bodies.holding() as held:
            json = await bodies.read_json(headers, receive, held) if self._takes_json else {}
            call = Call(
                exchange.request_id,
                caller,
                deadline,
                json,
                scope.get("path_params", {}),
                _query(scope),
                headers.get("idempotency-key"),
                held.let_go,
            )
            await _unless_gone(self._respond(call, scope, receive, exchange), receive)

    async def _respond(self, call: Call, scope: Any, receive: Receive, exchange: _Exchange) -> None:
        response = await self._handle(call)
        await response(scope, receive, exchange.send)


class _Exchange:
    """The answer on its way out, with the request's name in its head."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._started = False
        self.request_id = request_id
        self.status = _CLIENT_GONE

    async def send(self, message: Mapping[str, Any]) -> None:
        """As the `send` of ASGI."""
        if message["type"] == "http.response.start":
            self._started = True
            self.status = message["status"]
            name = (b"x-request-id", self.request_id.encode())
            message = {**message, "headers": [*message.get("headers", ()), name]}
        await self._send(message)

    async def fail(self, error: ServingError, scope: Any, receive: Receive) -> None:
        """Answer with an error; where an answer has begun, it is cut off."""
        if self._started:
            _log.info("answer cut off", reason=error.reason, request_id=self.request_id)
            raise ClientGone
        _log.info("request refused", reason=error.reason, request_id=self.request_id)
        await error_response(error)(scope, receive, self.send)


def error_response(error: ServingError) -> Response:
    """An error as an answer."""
    return JSONResponse(error_body(error), http_status(error), error_headers(error))


async def _unless_gone(work: Coroutine[Any, Any, None], receive: Receive) -> None:
    """Run the work to its end, or until the client leaves.

    Raises:
        ClientGone: it left.
    """
    working = asyncio.create_task(work)
    watching = asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        await working
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.wait((working, watching))


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _request_id(headers: Headers) -> str:
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _query(scope: Any) -> Mapping[str, str]:
    pairs = scope.get("query_string", b"").decode("latin-1").split("&")
    return dict(pair.partition("=")[::2] for pair in pairs if pair)
