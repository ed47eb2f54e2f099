"""A process that answers health probes and nothing else, in the manners that a test asks for.

python stand_in_service.py NAME PORT [late|stubborn|fails|chatty]
"""

import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

LINES = 2000


def main(name: str, port: int, manner: str = "good") -> int:
    if manner == "fails":
        print(f"{name}: no model here", flush=True)
        return 3
    # Not an Event: each thread of a launcher that dies sends SIGTERM, and Event.set would wait for itself
    # when a second one interrupts it.
    stop = SimpleQueue[None]()
    signal.signal(signal.SIGTERM, lambda number, frame: manner == "stubborn" or stop.put(None))
    if manner == "chatty":
        _say_much(name)
    if manner != "late":
        server = grpc.server(ThreadPoolExecutor(2))
        servicer = health.HealthServicer()
        servicer.set("ready", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        print(f"{name}: serving", flush=True)
    stop.get()
    if manner == "chatty":
        _say_much(name)
    return 0


def _say_much(name: str) -> None:
    """More than a pipe holds."""
    for number in range(LINES):
        print(f"{name}: line {number} {'.' * 80}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
