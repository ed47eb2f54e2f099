"""What the Paddle community bucket holds.

PaddleNLP resolves a community name to ENDPOINT/models/community/OWNER/NAME/FILE (its
utils/download/bos_download.py); so do we, with no need for its two gigabytes of dependencies. The bucket
has no listing, no revisions and no hashes: the known names are asked for one by one, and sizes are all
there is to check.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx

from internvl.checkpoint.shards import PDPARAMS_FILE, PDPARAMS_INDEX, SAFETENSORS_FILE, SAFETENSORS_INDEX
from internvl.fetch.remote_file import FetchError, RemoteFile, is_wanted, unreachable

_ENDPOINT = "https://bj.bcebos.com/paddlenlp"
_COMPANIONS = (
    *("generation_config.json", "preprocessor_config.json", "tokenizer.model", "tokenizer_config.json"),
    *("added_tokens.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
)
# In PaddleNLP's own order of preference.
_WEIGHTS = (SAFETENSORS_INDEX, SAFETENSORS_FILE, PDPARAMS_INDEX, PDPARAMS_FILE)
_TIMEOUT_S = 30.0


class PaddleBucket:
    """The bucket, or a mirror of it.

    Args:
        endpoint: base address; default: PPNLP_ENDPOINT, as in PaddleNLP, or Paddle's own.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = (endpoint or os.environ.get("PPNLP_ENDPOINT") or _ENDPOINT).rstrip("/")
        self.host = urlsplit(self._endpoint).netloc

    def files(self, repository: str, revision: str | None) -> list[RemoteFile]:
        """The checkpoint files under a community name, with sizes.

        Raises:
            FetchError: the host cannot be reached, there is no such name, or it has no weights we know.
        """
        if revision is not None:
            raise FetchError(f"{self.host}: this bucket keeps no revisions; leave out --revision")
        try:
            with httpx.Client(timeout=_TIMEOUT_S, follow_redirects=True) as client:
                return list(self._files(client, repository))
        except httpx.HTTPError as error:
            raise unreachable(self.host, repository, "PPNLP_ENDPOINT", error) from None

    def _files(self, client: httpx.Client, repository: str) -> Iterator[RemoteFile]:
        config = self._probe(client, repository, "config.json")
        if config is None:
            raise FetchError(
                f"{self.host}: no config.json under models/community/{repository}; check the name"
            )
        yield config
        for name in _COMPANIONS:
            found = self._probe(client, repository, name)
            if found is not None:
                yield found
        yield from self._weights(client, repository)

    def _weights(self, client: httpx.Client, repository: str) -> Iterator[RemoteFile]:
        for name in _WEIGHTS:
            found = self._probe(client, repository, name)
            if found is None:
                continue
            yield found
            if name.endswith(".index.json"):
                yield from self._shards(client, repository, found)
            return
        raise FetchError(f"{self.host}: {repository} has no weights; looked for {', '.join(_WEIGHTS)}")

    def _shards(self, client: httpx.Client, repository: str, index: RemoteFile) -> Iterator[RemoteFile]:
        for name in _shard_names(index.name, client.get(index.url)):
            found = self._probe(client, repository, name)
            if found is None:
                raise FetchError(f"{self.host}: {repository} lacks {name}, which its {index.name} names")
            yield found

    def _probe(self, client: httpx.Client, repository: str, name: str) -> RemoteFile | None:
        url = f"{self._endpoint}/models/community/{repository}/{name}"
        reply = client.head(url, headers={"Accept-Encoding": "identity"})
        if reply.status_code in (403, 404):
            return None
        size = reply.headers.get("Content-Length", "")
        if not reply.is_success or not size.isdecimal():
            raise FetchError(f"{self.host}: cannot ask for {name} of {repository} (HTTP {reply.status_code})")
        return RemoteFile(name, url, int(size), version=reply.headers.get("ETag", size).strip('"'))


def _shard_names(index: str, reply: httpx.Response) -> list[str]:
    try:
        names = sorted(set(reply.raise_for_status().json()["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FetchError(f"{index}: cannot be followed ({type(error).__name__})") from None
    foreign = [name for name in names if not isinstance(name, str) or not is_wanted(name)]
    if foreign:
        raise FetchError(f"{index}: names {foreign[0]!r}, which is not a file of weights")
    return names
