"""The `internvl` command and how a package plugs a subcommand into it.

A subcommand is an object with the four attributes of `Command`, named by an entry point:

    [project.entry-points."internvl.commands"]
    chat = "internvl_client.command:command"

    # internvl_client/command.py
    command = Command("chat", "Talk to a model about images.", configure, run)

The object may also be of a class of its own: nothing but the attributes is asked for. Import what the
subcommand needs at the top of its module: if that fails, `internvl` lists it as unavailable and names the
extra to install. `run` returns the exit code and lets errors escape; `internvl` prints them as one line.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """One subcommand.

    Attributes:
        name: as typed after `internvl`; equal to the name of the entry point.
        help: one sentence for the list of commands.
        configure: adds the arguments to the subcommand's own parser.
        run: does the work and returns the exit code, 0 for success.
    """

    name: str
    help: str
    configure: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]
