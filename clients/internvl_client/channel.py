"""How the client connects."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

ADDRESS_VARIABLE = "INTERNVL_ADDRESS"
DEFAULT_TIMEOUT_S = 600.0

_MAX_MESSAGE_BYTES = 8 * 2**20

# gRPC repeats a call only while nothing of its answer has arrived: an answer that has begun is not asked for
# twice.
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": "internvl.v1.ChatService"}],
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
