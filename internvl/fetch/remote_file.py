"""One file on a server, and the rules about which files are wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from internvl.errors import CheckpointError

_SUFFIXES = (".json", ".safetensors", ".pdparams", ".txt")
_NAMES = ("tokenizer.model",)
_BLOCK = 1 << 20


class FetchError(CheckpointError):
    """A checkpoint that could not be downloaded whole."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file to download.

    Attributes:
        name: plain file name.
        size: bytes.
        version: changes with the content; a partial download is resumed only under the same version.
        sha256, git_sha1: hex digest of the content, and of the content as a git blob; None if not published.
        headers: to send with the request, such as a token.
    """

    name: str
    url: str
    size: int
    version: str
    sha256: str | None = None
    git_sha1: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def check(self, path: Path) -> None:
        """Compare a finished download with what was announced.

        Raises:
            FetchError: size or hash differ.
        """
        size = path.stat().st_size
        if size != self.size:
            raise FetchError(f"{self.name}: wrong size, expected {self.size} bytes, found {size}")
        if self.sha256 is not None:
            self._compare("sha256", self.sha256, _hash(path, "sha256"))
        elif self.git_sha1 is not None:
            self._compare("git blob", self.git_sha1, _hash(path, "sha1", f"blob {size}\0".encode()))

    def _compare(self, kind: str, expected: str, found: str) -> None:
        if found != expected:
            raise FetchError(f"{self.name}: wrong {kind} hash, expected {expected}, found {found}")


def is_wanted(name: str) -> bool:
    """Whether a file belongs to a checkpoint. Code and torch pickles (*.py, *.bin) never do."""
    return "/" not in name and "\\" not in name and (name in _NAMES or name.endswith(_SUFFIXES))


def without_second_weights(names: Iterable[str]) -> list[str]:
    """Where a repository holds its weights twice, safetensors win."""
    names = list(names)
    if any(name.endswith(".safetensors") for name in names):
        return [name for name in names if ".pdparams" not in name]
    return names


def unreachable(host: str, what: str, mirror_variable: str, error: Exception) -> FetchError:
    """The error for a host that does not answer: what was tried, why it failed, and the ways out."""
    return FetchError(
        f"cannot reach {host} for {what} ({type(error).__name__}). {mirror_variable} names a mirror. If this "
        "machine has no network, fetch on one that has, copy the folder here and run "
        "`internvl checkpoint inspect` on it"
    )


def _hash(path: Path, algorithm: str, prefix: bytes = b"") -> str:
    # SHA-1 is what git names its blobs by; it guards against accidents here, not against attackers.
    digest = hashlib.new(algorithm, prefix, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
