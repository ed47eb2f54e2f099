"""Downloading files with resume, and checking what arrived."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from internvl.checkpoint.progress import ProgressHook
from internvl.fetch.remote_file import FetchError, RemoteFile

_WORTH_RETRYING = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to give up. Attempts count from the last one that brought any bytes.

    Attributes:
        attempts: tries without progress.
        pause_s: seconds before the second try, doubled before each further one.
        timeout_s: seconds without a byte after which a connection counts as cut.
    """

    attempts: int = 5
    pause_s: float = 1.0
    timeout_s: float = 30.0


class _Interrupted(Exception):
    """The connection broke, or the server is busy: worth another try."""


def download_all(
    files: Sequence[RemoteFile], folder: Path, progress: ProgressHook, policy: RetryPolicy | None = None
) -> None:
    """Download into `folder`; what is there and right already is kept, what is half there is resumed.

    Raises:
        FetchError: the disk is too small, the server refuses or breaks off for good, or a file is not what
            was announced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _check_space(files, folder)
    policy = policy or RetryPolicy()
    total = sum(file.size for file in files)
    finished = 0
    with httpx.Client(timeout=policy.timeout_s, follow_redirects=True) as client:
        for file in files:
            for received in _received(_Download(file, folder, client, policy)):
                progress(finished + received, total)
            finished += file.size
            progress(finished, total)


def _received(download: _Download) -> Iterator[int]:
    try:
        yield from download.run()
    except httpx.HTTPError as error:  # what no retry can mend, such as an endless redirect
        raise FetchError(f"{download.host}: cannot send {download.name} ({type(error).__name__})") from None


def _check_space(files: Sequence[RemoteFile], folder: Path) -> None:
    missing = sum(
        file.size - _size(_partial_path(file, folder)) for file in files if not (folder / file.name).exists()
    )
    free = shutil.disk_usage(folder).free
    if missing > free:
        raise FetchError(f"not enough disk space: {missing} bytes are still to come, {free} are free")


class _Download:
    """One file: from the partial file under its version's name to the checked file under its own."""

    def __init__(self, file: RemoteFile, folder: Path, client: httpx.Client, policy: RetryPolicy) -> None:
        self._file = file
        self._target = folder / file.name
        self._partial = _partial_path(file, folder)
        self._client = client
        self._policy = policy

    def run(self) -> Iterator[int]:
        """Yield how many bytes have arrived, from time to time."""
        if self._is_done():
            return
        yield from self._receive_all()
        self._check()
        self._partial.replace(self._target)
        for stale in self._target.parent.glob(f"{self._file.name}.*.partial"):
            stale.unlink()

    def _is_done(self) -> bool:
        try:
            self._file.check(self._target)
        except (FileNotFoundError, FetchError):
            return False
        return True

    def _check(self) -> None:
        try:
            self._file.check(self._partial)
        except FetchError:
            self._partial.unlink()  # resuming from wrong bytes would never end well
            raise

    def _receive_all(self) -> Iterator[int]:
        """Ask again after each interruption, as long as that brings anything."""
        fruitless = 0
        while _size(self._partial) < self._file.size or not self._partial.exists():
            before = _size(self._partial)
            try:
                yield from self._receive(before)
            except (_Interrupted, httpx.TransportError) as error:
                fruitless = 1 if _size(self._partial) > before else fruitless + 1
                if fruitless >= self._policy.attempts:
                    raise FetchError(self._gave_up(error)) from None
                time.sleep(self._policy.pause_s * 2 ** (fruitless - 1))

    def _receive(self, offset: int) -> Iterator[int]:
        headers = {**self._file.headers, "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        with self._client.stream("GET", self._file.url, headers=headers) as reply:
            offset = self._agreed_offset(reply, offset)
            with self._partial.open("r+b" if offset else "wb") as output:
                output.seek(offset)
                for block in reply.iter_raw():  # in the server's own pieces, so that a cut loses nothing
                    output.write(block)
                    offset += len(block)
                    if offset > self._file.size:
                        break
                    yield offset
        if offset > self._file.size:
            self._partial.unlink()
            raise FetchError(f"{self._file.name}: wrong size, the server sends over {self._file.size} bytes")
        if offset < self._file.size:
            raise _Interrupted(f"{offset} of {self._file.size} bytes arrived")

    def _agreed_offset(self, reply: httpx.Response, offset: int) -> int:
        """Where the reply's bytes belong: at `offset`, or at 0 if the server ignores ranges."""
        if reply.status_code in _WORTH_RETRYING:
            raise _Interrupted(f"HTTP {reply.status_code}")
        if reply.status_code not in (200, 206):
            raise FetchError(f"{self.host}: refused {self._file.name} (HTTP {reply.status_code})")
        if reply.status_code == 200:
            self._check_announced(reply.headers.get("Content-Length"))
            return 0
        unit, _, total = reply.headers.get("Content-Range", "").partition("/")
        if not unit.startswith(f"bytes {offset}-"):
            raise FetchError(f"{self.host}: answered another range of {self._file.name} than asked for")
        self._check_announced(total)
        return offset

    def _check_announced(self, size: str | None) -> None:
        if size is not None and size.isdecimal() and int(size) != self._file.size:
            raise FetchError(
                f"{self._file.name}: wrong size, expected {self._file.size} bytes, the server offers {size}"
            )

    def _gave_up(self, error: Exception) -> str:
        return (
            f"{self.host}: {self._file.name} broke off {self._policy.attempts} times without progress "
            f"({error or type(error).__name__}); the same command resumes it"
        )

    @property
    def name(self) -> str:
        return self._file.name

    @property
    def host(self) -> str:
        return urlsplit(self._file.url).netloc


def _partial_path(file: RemoteFile, folder: Path) -> Path:
    version = hashlib.sha256(file.version.encode()).hexdigest()[:12]
    return folder / f"{file.name}.{version}.partial"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
