"""All routes of the HTTP door."""

from __future__ import annotations

from typing import Any, Protocol

import prometheus_client
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from gateway.access.access import Access
from gateway.chats import Chats
from gateway.conversation_calls import ConversationCalls
from gateway.http.chat_completions import ChatCompletions
from gateway.http.config import HttpConfig
from gateway.http.endpoint import Call, Endpoint, Handler, Surroundings, error_response
from gateway.http.errors import NoRoute, UnknownModel, WrongMethod
from gateway.http.json_body import BodyReader
from gateway.http.media import MediaReader
from gateway.http.models import Models
from gateway.http.remote_media import Network, RemoteMedia
from gateway.http.response_archive import ResponseArchive
from gateway.http.response_keys import ResponseKeys
from gateway.http.responses import Responses
from gateway.storage.claims import Claims
from gateway.turn_calls import TurnCalls
from gateway.wire import RequestLimits
from internvl.errors import ServingError, Unavailable

_WELCOME = """InternVL Serve: chat with InternVL2 about pictures and films.

GET    /v1/models                 the model served here
POST   /v1/chat/completions       chat, as OpenAI's API does; with "stream": true word by word
POST   /v1/responses              the same, kept here: go on with "previous_response_id"
GET    /v1/responses/ID           also DELETE, and POST .../cancel for those in the background
GET    /health /ready /metrics    for whoever watches this server

    curl http://127.0.0.1:8000/v1/chat/completions -H 'content-type: application/json' \\
      -d '{"model": "MODEL", "messages": [{"role": "user", "content": "Hello!"}]}'
"""


class HttpCore(Protocol):
    """What the door opens onto: `gateway.server.Core`."""

    @property
    def chats(self) -> Chats: ...

    @property
    def turns(self) -> TurnCalls: ...

    @property
    def conversations(self) -> ConversationCalls: ...

    @property
    def claims(self) -> Claims: ...

    @property
    def access(self) -> Access: ...


class HttpApp:
    """The ASGI application.

    Attributes:
        ready: what `/ready` says; the server takes it back when it drains.
    """

    def __init__(
        self,
        core: HttpCore,
        limits: RequestLimits,
        config: HttpConfig,
        *,
        network: Network | None = None,
    ) -> None:
        self.ready = True
        self._bodies = BodyReader(config.body)
        self._around = Surroundings(self._bodies, core.access, config.request_timeout_s)
        self._models = Models(core.chats)
        media = MediaReader(core.chats.store_media, RemoteMedia(config.media, network))
        self._completions = ChatCompletions(core.chats, self._models, media, limits)
        archive = ResponseArchive(
            core.conversations, core.turns, config.request_timeout_s, config.response_ttl_s
        )
        self._responses = Responses(
            core.chats, archive, ResponseKeys(core.claims), self._models, media, limits
        )
        origins = list(config.cors_origins)
        cors = Middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id"],
        )
        self.asgi: Any = Starlette(
            routes=self._routes(),
            middleware=[cors] if origins else [],
            exception_handlers={HTTPException: _no_such_route},
        )

    @property
    def held_bytes(self) -> int:
        """Bytes of the bodies that are held at this moment."""
        return self._bodies.held

    def _routes(self) -> list[Route]:
        return [
            self._get("/", self._welcome, public=True),
            self._get("/health", self._health, public=True),
            self._get("/ready", self._is_ready, public=True),
            self._get("/metrics", self._metrics),
            self._get("/v1/models", self._list_models),
            self._get("/v1/models/{model:path}", self._get_model),
            self._post("/v1/chat/completions", self._completions.create),
            self._post("/v1/responses", self._responses.create),
            self._get("/v1/responses/{id}", self._responses.get),
            self._get("/v1/responses/{id}/input_items", self._responses.items),
            self._bare("/v1/responses/{id}/cancel", self._responses.cancel, "POST"),
            self._bare("/v1/responses/{id}", self._responses.delete, "DELETE"),
        ]

    def _get(self, path: str, handle: Handler, *, public: bool = False) -> Route:
        return self._bare(path, handle, "GET", public=public)

    def _bare(self, path: str, handle: Handler, method: str, *, public: bool = False) -> Route:
        """A route that reads no body."""
        return Route(path, Endpoint(path, handle, self._around, public=public), methods=[method])

    def _post(self, path: str, handle: Handler) -> Route:
        return Route(path, Endpoint(path, handle, self._around, takes_json=True), methods=["POST"])

    async def _welcome(self, call: Call) -> Response:
        return PlainTextResponse(_WELCOME)

    async def _health(self, call: Call) -> Response:
        return JSONResponse({"status": "ok"})

    async def _is_ready(self, call: Call) -> Response:
        if not self.ready:
            raise Unavailable("the server is about to stop")
        return JSONResponse({"status": "ready"})

    async def _metrics(self, call: Call) -> Response:
        return Response(prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST)

    async def _list_models(self, call: Call) -> Response:
        return JSONResponse({"object": "list", "data": await self._models.all(call.caller, call.deadline)})

    async def _get_model(self, call: Call) -> Response:
        for model in await self._models.all(call.caller, call.deadline):
            if model["id"] == call.path["model"]:
                return JSONResponse(model)
        raise UnknownModel("no such model; GET /v1/models lists what is served here")


async def _no_such_route(request: Request, error: Exception) -> Response:
    refused: ServingError = NoRoute("no such path; GET / lists what is served here")
    if isinstance(error, HTTPException) and error.status_code == 405:
        refused = WrongMethod("this path takes another method; GET / lists what is served here")
    return error_response(refused)
