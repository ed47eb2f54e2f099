"""Client side of a connection between tiers."""

from __future__ import annotations

import json

import grpc

from internvl.rpc.config import MIB

_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        # Without this, half of the calls still go to a replica that reports NOT_SERVING.
        "healthCheckConfig": {"serviceName": "ready"},
    }
)


def open_channel(target: str, *, max_message_bytes: int = 8 * MIB) -> grpc.aio.Channel:
    """Open a plaintext channel to a tier, spread over all its healthy replicas.

    Args:
        target: any gRPC target, for example `127.0.0.1:50051` or `dns:///vision:50051`.
        max_message_bytes: largest message taken or sent, in bytes.
    """
    balanced = ("grpc.service_config", _SERVICE_CONFIG)
    return grpc.aio.insecure_channel(target, options=[balanced, *_options(max_message_bytes)])


def open_direct_channel(address: str, *, max_message_bytes: int = 8 * MIB) -> grpc.aio.Channel:
    """Open a plaintext channel to one replica, whose health is the caller's concern.

    Args:
        address: a gRPC address, for example `ipv4:127.0.0.1:50051`.
        max_message_bytes: largest message taken or sent, in bytes.
    """
    # A pool of its own: two channels to one address would otherwise share a connection, and its fate.
    apart = ("grpc.use_local_subchannel_pool", 1)
    return grpc.aio.insecure_channel(address, options=[apart, *_options(max_message_bytes, 500)])


def _options(max_message_bytes: int, most_backoff_ms: int = 2_000) -> list[tuple[str, int]]:
    return [
        # Retrying is the application's decision: it alone knows what was already delivered.
        ("grpc.enable_retries", 0),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", max_message_bytes),
        # Below the server's minimum of 10 s a peer answers `too_many_pings` and hangs up.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", most_backoff_ms),
    ]
