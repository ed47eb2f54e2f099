"""The `internvl` command: picks a subcommand, and turns every error into one line and an exit code.

Exit codes: 0 success, 1 the work failed, 2 the command or its configuration is wrong, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from internvl.cli.registry import Registry, Unavailable
from internvl.errors import CheckpointError, ConfigError, ServingError


def main(arguments: Sequence[str] | None = None, registry: Registry | None = None) -> int:
    """Run `internvl ARGUMENTS` and return its exit code. INTERNVL_DEBUG=1 shows where an error came from."""
    arguments = sys.argv[1:] if arguments is None else arguments
    registry = registry or Registry()
    try:
        return _dispatch(list(arguments), registry)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except BrokenPipeError:
        # The reader of our output left, as `| head` does; it wants no more of it, not even a complaint.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if os.environ.get("INTERNVL_DEBUG") == "1":
            raise
        return _complain(*_explain(error))


def _dispatch(arguments: list[str], registry: Registry) -> int:
    if not arguments or arguments[0].startswith("-"):
        _overview(registry).parse_args(arguments or ["--help"])
        return 0
    name, *rest = arguments
    if name not in registry:
        raise ConfigError(
            f"unknown command {name!r}; commands: {', '.join(registry.names()) or 'none installed'}"
        )
    command = registry.load(name)
    parser = ArgumentParser(prog=f"internvl {name}", description=command.help)
    command.configure(parser)
    return command.run(parser.parse_args(rest))


def _overview(registry: Registry) -> ArgumentParser:
    parser = ArgumentParser(
        prog="internvl",
        usage="internvl [--version] COMMAND ...",
        description="Serve InternVL2 and work with its checkpoints.",
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"internvl-serve {_version()}")
    commands = list(registry.load_all())
    lines = ["commands:"]
    lines += [
        f"  {command.name:<12} {command.help}" for command in commands if not isinstance(command, Unavailable)
    ]
    unavailable = [command for command in commands if isinstance(command, Unavailable)]
    if unavailable:
        lines += ["", "not available here:"]
        lines += [f"  {command.name:<12} {command.remedy}" for command in unavailable]
    lines += ["", "`internvl COMMAND --help` says more."]
    parser.epilog = "\n".join(lines)
    return parser


def _version() -> str:
    try:
        return version("internvl-serve")
    except PackageNotFoundError:
        return "(not installed)"


def _explain(error: Exception) -> tuple[str, int]:
    """One line for the user, and the exit code."""
    if isinstance(error, ConfigError):
        return str(error), 2
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}", 1
    if isinstance(error, (CheckpointError, ServingError, OSError)):
        return str(error), 1
    return f"unexpected {type(error).__name__}: {error} (INTERNVL_DEBUG=1 shows where)", 1


def _complain(message: str, code: int) -> int:
    print(f"internvl: {message}", file=sys.stderr)
    return code
