"""Both doors of the gateway, for what is asked through either."""

from __future__ import annotations

import base64
import http.client
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

from internvl_client import Client, Image, Video
from internvl_client.options import SayOptions
from models.recipe.heldout import Media

GRPC, HTTP = "grpc", "http"

_TIMEOUT_S = 600.0
_RETRIES = 10


class Door(Protocol):
    """Asks questions about media, each after the model's own earlier answers."""

    def last_answer(self, questions: Sequence[str], media: Sequence[Media]) -> str:
        """Ask all questions in one conversation, the media with the first, and return the last answer."""


class GrpcDoor:
    """Conversations that the gateway keeps."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def last_answer(self, questions: Sequence[str], media: Sequence[Media]) -> str:
        conversation = self._client.conversation()
        images = [Image(item.data) for item in media if item.kind == "image"]
        videos = [Video(item.data, frames=item.frames) for item in media if item.kind == "video"]
        answer = ""
        for number, question in enumerate(questions):
            shown = SayOptions(images=images, videos=videos) if number == 0 else SayOptions()
            answer = conversation.say(question, **shown).result().text
        conversation.delete()
        return answer


class HttpDoor:
    """Chat completions, with the whole history in each request and the text before the media, as evaluation
    kits send it."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host = parts.hostname or "127.0.0.1"
        self._port = parts.port or 80
        self._base = parts.path.rstrip("/")
        self._model = self._call("GET", "/models")["data"][0]["id"]

    def last_answer(self, questions: Sequence[str], media: Sequence[Media]) -> str:
        messages: list[dict[str, Any]] = []
        answer = ""
        for number, question in enumerate(questions):
            shown = [_part(item) for item in media] if number == 0 else []
            messages.append({"role": "user", "content": [{"type": "text", "text": question}, *shown]})
            asked = {"model": self._model, "messages": messages, "temperature": 0}
            completion = self._call("POST", "/chat/completions", asked)
            answer = completion["choices"][0]["message"]["content"]
            messages.append({"role": "assistant", "content": answer})
        return answer

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        status, answer = self._attempt(method, path, body)
        for _ in range(_RETRIES):
            if status != 503:  # a tier that has just started may not be found yet
                break
            time.sleep(1.0)
            status, answer = self._attempt(method, path, body)
        if status != 200:
            raise RuntimeError(f"{path} answers {status}: {answer}")
        return answer

    def _attempt(self, method: str, path: str, body: Any) -> tuple[int, Any]:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=_TIMEOUT_S)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, self._base + path, data, {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, json.load(response)
        finally:
            connection.close()


def _part(media: Media) -> dict[str, Any]:
    kind = "image/png" if media.kind == "image" else "video/mp4"
    url = f"data:{kind};base64,{base64.b64encode(media.data).decode()}"
    if media.kind == "image":
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "video_url", "video_url": {"url": url, "frames": media.frames}}


@contextmanager
def open_door(name: str, address: str) -> Iterator[Door]:
    """A door by its name; `address` is a gRPC target, or the base URL of the HTTP API."""
    if name == HTTP:
        yield HttpDoor(address)
        return
    with Client(address) as client:
        yield GrpcDoor(client)
