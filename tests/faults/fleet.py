"""Real services as processes of their own, any of which a test may kill and start again."""

from __future__ import annotations

import os
import queue
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from deploy.health import is_serving
from deploy.launcher.config import GATEWAY, LLM, VISION, LaunchConfig, Service, plan_services
from deploy.launcher.free_ports import free_ports
from deploy.launcher.process import ServiceProcess
from internvl.v1 import chat_service_pb2 as chat
from internvl.v1 import chat_service_pb2_grpc

READY_S = 120.0
TURN_S = 120.0

_MORE = {
    GATEWAY: ("--failover-wait-seconds", "60", "--retry-ratio", "1"),
    LLM: ("--batch-invariant",),
    VISION: (),
}


class Fleet:
    """A gateway and two replicas of each tier."""

    def __init__(self, model: Path, store: str, media: Path) -> None:
        config = LaunchConfig(
            model=model, ports=None, vision_replicas=2, llm_replicas=2, threads=1, grace_s=1.0
        )
        self._services: dict[str, Service] = {}
        self._metrics: dict[str, int] = {}
        self._processes: dict[str, ServiceProcess] = {}
        services = plan_services(config)
        for service, port in zip(services, free_ports(len(services)), strict=True):
            self._metrics[service.name] = port
            more = (*_MORE[service.tier], "--metrics-listen", f"127.0.0.1:{port}")
            if service.name == GATEWAY:
                more = (*more, "--store", store, "--media-dir", str(media))
            self._services[service.name] = replace(service, arguments=(*service.arguments, *more))

    def start(self, *names: str) -> None:
        """Start services, by default all, and wait until they are ready."""
        names = names or tuple(self._services)
        for name in names:
            self._processes[name] = ServiceProcess(self._services[name], _drop, queue.Queue())
        deadline = time.monotonic() + READY_S
        for name in names:
            while not is_serving(self._services[name].address, "ready", 1.0):
                process = self._processes[name]
                assert process.exit_code is None, f"{name} ended:\n{process.last_lines}"
                assert time.monotonic() < deadline, f"{name} is not ready"

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until it is gone."""
        process = self._processes[name]
        # It may have ended by itself a moment ago.
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.wait(10)

    def stop(self) -> None:
        """Kill all."""
        for name, process in self._processes.items():
            if process.exit_code is None:
                self.kill(name)

    def names(self, tier: str) -> list[str]:
        """The replicas of a tier."""
        return [service.name for service in self._services.values() if service.tier == tier]

    def metric(self, name: str, metric: str) -> float:
        """A number that a service counts; 0 before the first time."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics[name]}/metrics", timeout=10) as page:
            lines = page.read().decode().splitlines()
        return next((float(line.split()[-1]) for line in lines if line.startswith(f"{metric} ")), 0.0)

    @contextmanager
    def client(self) -> Iterator[Any]:
        """A stub of the gateway."""
        with grpc.insecure_channel(self._services[GATEWAY].address) as channel:
            yield chat_service_pb2_grpc.ChatServiceStub(channel)

    def ask(
        self, request: chat.ChatRequest, on_event: Callable[[int, chat.ChatResponse], None] | None = None
    ) -> list[chat.ChatResponse]:
        """A whole turn; `on_event` is told the number of each event and the event."""
        received = []
        with self.client() as stub:
            for event in stub.Chat(request, timeout=TURN_S, wait_for_ready=True):
                received.append(event)
                if on_event is not None:
                    on_event(len(received), event)
        return received

    def create(self) -> str:
        """A new conversation."""
        with self.client() as stub:
            created = stub.CreateConversation(chat.CreateConversationRequest(), wait_for_ready=True)
        return str(created.conversation.conversation_id)

    def fetch(self, conversation_id: str) -> chat.Conversation:
        """A conversation as it is stored."""
        with self.client() as stub:
            request = chat.GetConversationRequest(conversation_id=conversation_id)
            return stub.GetConversation(request, wait_for_ready=True).conversation


@contextmanager
def running_fleet(model: Path, store: str, media: Path) -> Iterator[Fleet]:
    """All services, ready; killed when the block ends."""
    fleet = Fleet(model, store, media)
    try:
        fleet.start()
        yield fleet
    finally:
        fleet.stop()


def text_of(received: list[chat.ChatResponse]) -> str:
    """The text as it was streamed."""
    return "".join(event.delta.text for event in received)


def _drop(name: str, line: str) -> None:
    """Nobody reads these logs."""
