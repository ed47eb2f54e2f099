"""Uses the client where only its own dependencies exist: `python -m deploy.checks.client`.

Run it with the interpreter of `.venv-client`, which holds the oldest versions pyproject.toml allows and
nothing else. It loads every stub, every module of the client and the `internvl` command line, then lets both
clients talk to a server of a few lines.
"""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import metadata

import grpc

from internvl.v1 import chat_service_pb2, chat_service_pb2_grpc, content_pb2, llm_service_pb2

TOO_HEAVY = ("numpy", "PIL", "paddle", "structlog", "prometheus_client", "grpc_health")


def import_all(package_name: str) -> list[str]:
    """Import a package and every module in it; the names imported.

    Raises:
        ImportError: something in it needs a package that is not installed.
    """
    package = importlib.import_module(package_name)
    names = [package_name]
    for module in pkgutil.walk_packages(package.__path__, f"{package_name}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            names.append(module.name)
    return names


class EchoService(chat_service_pb2_grpc.ChatServiceServicer):
    """Answers with what it was told, a word at a time."""

    def Chat(
        self, request: chat_service_pb2.ChatRequest, context: grpc.ServicerContext
    ) -> Iterator[chat_service_pb2.ChatResponse]:
        said = request.messages[-1].parts[-1].text
        yield chat_service_pb2.ChatResponse(started=chat_service_pb2.ChatStarted(request_id="echo"))
        for word in said.split():
            yield chat_service_pb2.ChatResponse(delta=llm_service_pb2.TokenDelta(text=f"{word} "))
        message = content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=[content_pb2.Part(text=said)])
        result = chat_service_pb2.ChatResult(
            message=message, finish_reason=llm_service_pb2.FINISH_REASON_STOP
        )
        yield chat_service_pb2.ChatResponse(result=result)


@contextmanager
def echo_server() -> Iterator[str]:
    """A running `EchoService`; its address."""
    server = grpc.server(ThreadPoolExecutor(max_workers=2))
    chat_service_pb2_grpc.add_ChatServiceServicer_to_server(EchoService(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(grace=None).wait()


def chat(address: str) -> str:
    """What the synchronous client makes of an echo."""
    from internvl_client import Client

    with Client(address) as client:
        return client.chat("heard and seen").result().text


async def chat_async(address: str) -> str:
    """What the asynchronous client makes of an echo."""
    from internvl_client import AsyncClient

    async with AsyncClient(address) as client:
        return (await client.chat("heard and seen").result()).text


def main() -> int:
    """Import everything and chat; exit status 1 for a heavy package or a wrong answer."""
    names = [*import_all("internvl.v1"), *import_all("internvl_client"), "internvl.cli.main"]
    importlib.import_module("internvl.cli.main")
    heavy = [name for name in TOO_HEAVY if name in sys.modules]
    if heavy:
        print(f"the client drags in {', '.join(heavy)}", file=sys.stderr)
        return 1
    with echo_server() as address:
        answers = {chat(address), asyncio.run(chat_async(address))}
    if answers != {"heard and seen"}:
        print(f"the clients heard {answers}", file=sys.stderr)
        return 1
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("grpcio", "protobuf"))
    print(f"{len(names)} modules of the client import with {versions} and nothing heavier; both clients chat")
    return 0


if __name__ == "__main__":
    sys.exit(main())
