"""A real HTTP server for the download tests: a hub, a bucket, ranges, and failures on request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

REPOSITORY = "OpenGVLab/InternVL2-4B"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Published:
    """What the server has, how it misbehaves, and what it was asked.

    Attributes:
        files: content by name.
        announced: (size, sha256) in place of the true ones, by name.
        cut_after: bytes after which a reply about this file breaks off; each entry is used once.
        busy: how many times to answer 503 first.
        requests: (method, path, Range header, Authorization header) of every request.
    """

    files: dict[str, bytes]
    announced: dict[str, tuple[int, str]] = field(default_factory=dict)
    cut_after: dict[str, list[int]] = field(default_factory=dict)
    busy: int = 0
    ranges: bool = True
    redirect_to: str | None = None
    requests: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)

    def ranges_asked(self, name: str) -> list[str | None]:
        return [
            asked for method, path, asked, _ in self.requests if method == "GET" and path.endswith(f"/{name}")
        ]

    def repository(self) -> dict[str, Any]:
        return {"id": REPOSITORY, "sha": COMMIT, "siblings": [self._sibling(name) for name in self.files]}

    def _sibling(self, name: str) -> dict[str, Any]:
        content = self.files[name]
        size, sha256 = self.announced.get(name, (len(content), hashlib.sha256(content).hexdigest()))
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        sibling: dict[str, Any] = {"rfilename": name, "size": size, "blobId": blob}
        if name.endswith((".safetensors", ".model")):
            sibling["lfs"] = {"sha256": sha256, "size": size, "pointerSize": 134}
        return sibling


@contextmanager
def serve(published: Published) -> Iterator[str]:
    """Run the server; gives its base address."""
    server = _Server(published)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def __init__(self, published: Published) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.published = published


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    @property
    def _published(self) -> Published:
        return self.server.published

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self) -> None:
        path = self.path.split("?")[0]
        asked = self.headers.get("Range")
        self._published.requests.append((self.command, path, asked, self.headers.get("Authorization")))
        if path.startswith("/api/models/"):
            self._repository(path)
        elif self._published.redirect_to is not None:
            self._reply(302, b"", {"Location": self._published.redirect_to + self.path})
        elif path.rsplit("/", 1)[1] not in self._published.files or REPOSITORY not in path:
            self._reply(404, b"not here", {"X-Error-Code": "EntryNotFound"})
        else:
            self._file(path.rsplit("/", 1)[1], asked)

    def _repository(self, path: str) -> None:
        if REPOSITORY not in path:
            self._reply(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif not path.endswith((REPOSITORY, "/revision/main", f"/revision/{COMMIT}")):
            self._reply(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            self._reply(200, json.dumps(self._published.repository()).encode(), {})

    def _file(self, name: str, asked: str | None) -> None:
        content = self._published.files[name]
        if self.command == "GET" and self._published.busy > 0:
            self._published.busy -= 1
            self._reply(503, b"", {"Retry-After": "0"})
            return
        ranged = asked if self._published.ranges else None
        start = int(ranged.removeprefix("bytes=").removesuffix("-")) if ranged else 0
        headers = {"ETag": f'"{hashlib.md5(content).hexdigest()}"'}
        if ranged:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        cuts = self._published.cut_after.get(name, [])
        cut = cuts.pop(0) if self.command == "GET" and cuts else None
        status = 206 if ranged else 200
        self._reply(status, content[start:], headers, cut=cut)

    def _reply(self, status: int, body: bytes, headers: dict[str, str], *, cut: int | None = None) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True


def read_files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
