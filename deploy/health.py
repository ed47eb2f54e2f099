"""Asks a server's health service one question: `python -m deploy.health HOST:PORT [SERVICE]`.

The health check of the images, where no kubelet does it. Exit status 0: serving; 1: not serving or not there.
"""

from __future__ import annotations

import argparse
import sys

import grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub


def is_serving(target: str, service: str, timeout_s: float) -> bool:
    """Whether `service` ("" for the whole server, "live" or "ready") at `target` says SERVING in time."""
    with grpc.insecure_channel(target) as channel:
        try:
            # The published type stubs leave the generated methods out.
            answer = HealthStub(channel).Check(  # type: ignore[attr-defined]
                HealthCheckRequest(service=service), timeout=timeout_s, wait_for_ready=True
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == HealthCheckResponse.SERVING)


def main(arguments: list[str] | None = None) -> int:
    """Ask, and answer with an exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.health", description="Ask a server for its health."
    )
    parser.add_argument("target", metavar="HOST:PORT")
    parser.add_argument(
        "service", nargs="?", default="ready", help="live, ready (default) or a service's full name"
    )
    parser.add_argument("--timeout-seconds", type=float, default=2.0, metavar="S")
    args = parser.parse_args(arguments)
    return 0 if is_serving(args.target, args.service, args.timeout_seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
