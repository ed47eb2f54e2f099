"""Starts all services, waits until they are ready, and stops them together."""

from __future__ import annotations

import queue
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from deploy.health import is_serving
from deploy.launcher.config import GATEWAY, LLM, VISION, LaunchConfig, Service, plan_services
from deploy.launcher.process import Log, ServiceProcess, log_to_directory

Report = Callable[[str], None]

_PROBE_TIMEOUT_S = 0.5


class LaunchError(Exception):
    """A service could not start, was not ready in time or ended by itself; the message names it."""


class Stack:
    """Running services.

    Attributes:
        processes: by name, in the order in which they stop.
    """

    def __init__(self, services: Sequence[Service], log: Log) -> None:
        """Start them all."""
        self._ended: queue.Queue[ServiceProcess] = queue.Queue()
        self.processes = {service.name: ServiceProcess(service, log, self._ended) for service in services}

    @property
    def gateway_address(self) -> str:
        """Where clients connect."""
        return self.processes[GATEWAY].service.address

    @property
    def http_url(self) -> str:
        """Base URL of the OpenAI-compatible API; empty where there is none."""
        address = self.processes[GATEWAY].service.http_address
        return f"http://{address}/v1" if address else ""

    @property
    def vision_address(self) -> str:
        """Where the vision service listens."""
        return self.processes[VISION].service.address

    @property
    def llm_address(self) -> str:
        """Where the language service listens."""
        return self.processes[LLM].service.address

    def wait_ready(self, timeout_s: float, report: Report) -> None:
        """Wait until every service says that it is ready.

        Raises:
            LaunchError: one ended, or time ran out.
        """
        began = time.monotonic()
        waiting = list(self.processes.values())
        while waiting:
            self._check_all_alive()
            if time.monotonic() - began > timeout_s:
                names = ", ".join(process.service.name for process in waiting)
                raise LaunchError(f"not ready after {timeout_s:g} s: {names}")
            for process in list(waiting):
                if is_serving(process.service.address, "ready", _PROBE_TIMEOUT_S):
                    waiting.remove(process)
                    report(f"{process.service.name} is ready after {time.monotonic() - began:.1f} s")
        self._check_all_alive()

    def wait(self, report: Report | None = None) -> None:
        """Wait for as long as every tier has a process; a replica that ends while others go on is reported.

        Raises:
            LaunchError: the last one of a tier ended by itself; names it.
        """
        while True:
            ended = self._ended.get()
            tier = ended.service.tier
            others = [one for one in self.processes.values() if one.service.tier == tier and one is not ended]
            if all(one.exit_code is not None for one in others):
                raise _died(ended)
            (report or _ignore)(
                f"{ended.service.name} ended by itself ({_describe_exit(ended.exit_code)}); others go on"
            )

    def stop(self, grace_s: float) -> None:
        """Stop all: the front first, so that answers finish. What does not stop in time is killed."""
        front, *tiers = self.processes.values()
        front.terminate()
        front.wait(grace_s)
        for process in tiers:
            process.terminate()
        for process in tiers:
            process.wait(grace_s)

    def _check_all_alive(self) -> None:
        try:
            ended = self._ended.get_nowait()
        except queue.Empty:
            return
        raise _died(ended)


@contextmanager
def launch(config: LaunchConfig, *, log: Log | None = None, report: Report | None = None) -> Iterator[Stack]:
    """Start vision, language and gateway; on leaving the block, stop them.

    Args:
        config: what to start.
        log: takes the lines of their logs if they do not go to files; None drops them.
        report: takes one line for each service that becomes ready.

    Raises:
        LaunchError: an address is taken, or a service ended or was not ready in time; all others are stopped.
        OSError: the log directory cannot be written.
    """
    with launch_services(plan_services(config), config, log=log, report=report) as stack:
        yield stack


@contextmanager
def launch_services(
    services: Sequence[Service],
    config: LaunchConfig,
    *,
    log: Log | None = None,
    report: Report | None = None,
) -> Iterator[Stack]:
    """As `launch`, for any services; `config` gives the times and the log directory."""
    with ExitStack() as exits:
        if config.log_dir is not None:
            log = exits.enter_context(log_to_directory(config.log_dir))
        _check_free(services)
        stack = Stack(services, log or _drop)
        # A service may use its whole grace period; what is left after that and a second to exit is killed.
        exits.callback(stack.stop, config.grace_s + 1.0)
        stack.wait_ready(config.ready_timeout_s, report or _ignore)
        yield stack


def _check_free(services: Sequence[Service]) -> None:
    """Refuse addresses that are taken: their owner would answer our health probes in the services' place."""
    for service in services:
        for address in service.addresses:
            host, _, port = address.rpartition(":")
            try:
                socket.create_server((host, int(port))).close()
            except OSError:
                problem = f"{address} for {service.name} is taken; --ports auto picks free ones"
                raise LaunchError(problem) from None


def _died(process: ServiceProcess) -> LaunchError:
    lines = process.last_lines
    return LaunchError(
        f"{process.service.name} ended by itself ({_describe_exit(process.exit_code)})"
        + (f"; the end of its log:\n{lines}" if lines else "")
    )


def _describe_exit(code: int | None) -> str:
    if code is None:
        return "exit code unknown"
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _drop(name: str, line: str) -> None:
    """Take a line of a log that nobody wants."""


def _ignore(line: str) -> None:
    """Take a report that nobody wants."""
