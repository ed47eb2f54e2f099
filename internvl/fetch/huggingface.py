"""What a Hugging Face repository holds."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

import httpx
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import build_hf_headers

from internvl.fetch.remote_file import FetchError, RemoteFile, is_wanted, unreachable, without_second_weights

_TIMEOUT_S = 30.0


class HuggingFace:
    """A repository host that speaks the Hugging Face API.

    Args:
        endpoint: base address; default: HF_ENDPOINT, or huggingface.co.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = (endpoint or os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self.host = urlsplit(self._endpoint).netloc

    def files(self, repository: str, revision: str | None) -> list[RemoteFile]:
        """The checkpoint files of one commit, with sizes and hashes.

        Raises:
            FetchError: the host cannot be reached, or has no such repository or revision, or wants a token.
        """
        info = self._info(repository, revision)
        by_name = {sibling.rfilename: sibling for sibling in info.siblings or ()}
        wanted = without_second_weights(name for name in by_name if is_wanted(name))
        return [self._file(repository, info.sha, by_name[name]) for name in wanted]

    def _info(self, repository: str, revision: str | None) -> Any:
        what = f"{repository} (revision {revision or 'main'})"
        try:
            return HfApi(endpoint=self._endpoint).model_info(
                repository, revision=revision, files_metadata=True, timeout=_TIMEOUT_S
            )
        except OfflineModeIsEnabled:
            raise FetchError(
                f"HF_HUB_OFFLINE is set, so {self.host} was not asked for {what}; unset it"
            ) from None
        except GatedRepoError:
            raise FetchError(
                f"{self.host}: {what} is gated; accept its terms there and set HF_TOKEN"
            ) from None
        except RevisionNotFoundError:
            raise FetchError(f"{self.host}: {repository} has no revision {revision!r}") from None
        except RepositoryNotFoundError:
            raise FetchError(
                f"{self.host}: no repository {repository}, or it is private: check the name, or set HF_TOKEN"
            ) from None
        except HfHubHTTPError as error:
            raise FetchError(f"{self.host}: refused to list {what} ({_first_line(error)})") from None
        except (OSError, httpx.HTTPError) as error:  # its HTTP client is requests in release 0, httpx in 1
            raise unreachable(self.host, what, "HF_ENDPOINT", error) from None

    def _file(self, repository: str, commit: str, sibling: Any) -> RemoteFile:
        name = sibling.rfilename
        if sibling.size is None:
            raise FetchError(f"{self.host}: does not tell the size of {name}")
        sha256 = sibling.lfs.sha256 if sibling.lfs else None
        git_sha1 = None if sibling.lfs else sibling.blob_id
        return RemoteFile(
            name=name,
            url=hf_hub_url(repository, name, revision=commit, endpoint=self._endpoint),
            size=sibling.size,
            version=sha256 or git_sha1 or commit,
            sha256=sha256,
            git_sha1=git_sha1,
            headers=build_hf_headers(library_name="internvl-serve"),
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
