"""How the client connects."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import grpc

ADDRESS_VARIABLE = "INTERNVL_ADDRESS"
API_KEY_VARIABLE = "INTERNVL_API_KEY"
DEFAULT_TIMEOUT_S = 600.0

_MAX_MESSAGE_BYTES = 8 * 2**20

# Repeated where no server is found or the connection breaks: what only reads, and what comes to the same when
# done twice. A turn or a new conversation may have begun behind a broken connection. An answer that has begun
# to arrive is never asked for again.
_REPEATED_METHODS = (
    "AttachTurn",
    "CancelTurn",
    "GetConversation",
    "GetTurn",
    "ListConversations",
    "PlanTurn",
    "ServerInfo",
    "UpdateConversation",
    "UploadMedia",
)
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "internvl.v1.ChatService", "method": name} for name in _REPEATED_METHODS],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ]
}

CHANNEL_OPTIONS = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


def default_address() -> str:
    """Where the gateway is if nobody says: `INTERNVL_ADDRESS`, or the port that `internvl up` takes."""
    return os.environ.get(ADDRESS_VARIABLE) or "127.0.0.1:50050"


def call_metadata(api_key: str | None) -> tuple[tuple[str, str], ...]:
    """What every call carries: the key, or that of `INTERNVL_API_KEY`, or nothing.

    Raises:
        ValueError: the key holds what no header can. The message does not repeat it.
    """
    key = api_key or os.environ.get(API_KEY_VARIABLE, "").strip()
    if not key:
        return ()
    if not key.isascii() or not key.isprintable():
        raise ValueError("the API key must be printable ASCII")
    return (("authorization", f"Bearer {key}"),)


def tls_credentials(tls: bool | str | Path) -> grpc.ChannelCredentials | None:
    """How to encrypt; None for plaintext.

    Raises:
        OSError: the file of authorities cannot be read.
    """
    if tls is False:
        return None
    return grpc.ssl_channel_credentials(None if tls is True else Path(tls).read_bytes())


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The model behind a server.

    Attributes:
        model_name: for people.
        context_limit: most tokens of prompt and answer together.
        tile_size: side of one tile in pixels.
        tokens_per_tile: visual tokens of one tile.
        default_max_tiles: tiles of a picture unless the request says otherwise.
        max_media_bytes: largest file.
    """

    model_name: str
    context_limit: int
    tile_size: int
    tokens_per_tile: int
    default_max_tiles: int
    max_media_bytes: int
