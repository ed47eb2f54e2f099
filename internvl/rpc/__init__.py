"""How every tier speaks gRPC: one server assembly, one channel, one mapping of errors."""

from internvl.rpc.channel import open_channel, open_direct_channel
from internvl.rpc.config import (
    ServerConfig,
    ServerHelpFormatter,
    TlsConfig,
    add_server_flags,
    require_positive,
)
from internvl.rpc.program import run_program
from internvl.rpc.server import Running, run_server, serving
from internvl.rpc.status import error_from_rpc, status_from_error

__all__ = [
    "Running",
    "ServerConfig",
    "ServerHelpFormatter",
    "TlsConfig",
    "add_server_flags",
    "error_from_rpc",
    "open_channel",
    "open_direct_channel",
    "require_positive",
    "run_program",
    "run_server",
    "serving",
    "status_from_error",
]
