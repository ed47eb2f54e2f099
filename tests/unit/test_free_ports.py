"""Ports for services that have yet to start."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from deploy.launcher.free_ports import free_ports


def listening(ports: list[int]) -> ExitStack:
    with ExitStack() as taken:
        for port in ports:
            taken.enter_context(socket.create_server(("127.0.0.1", port)))
        return taken.pop_all()


def test_they_can_be_listened_on_and_are_not_given_out_again_then() -> None:
    ports = free_ports(400)
    with listening(ports):
        assert not set(free_ports(300)) & set(ports)


def test_no_connection_is_given_one_of_them() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    if lowest < 32_000:
        pytest.skip("this machine gives connections other ports than Linux does by default")
    assert max(free_ports(50)) < lowest
