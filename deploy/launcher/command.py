"""`internvl up`: the whole system on this machine."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from argparse import ArgumentParser, Namespace
from pathlib import Path
from types import FrameType

from deploy.launcher.config import LaunchConfig, Ports
from deploy.launcher.demo_story import NANO
from deploy.launcher.stack import LaunchError, Stack, launch
from internvl.cli import Command
from internvl.model_choice import add_weight_flags, weights_of
from internvl.telemetry import LOG_LEVELS

_DEFAULTS = LaunchConfig()


def configure(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    parser.epilog = (
        "Every flag of a service can be set through the environment, for example INTERNVL_LLM_CONTEXT_LIMIT."
    )
    _add_model_flags(parser)
    _add_process_flags(parser)
    _add_place_flags(parser)


def _add_model_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", type=Path, metavar="DIR", help="checkpoint (default: the embedded nano model)")
    add("--device", default=_DEFAULTS.device, metavar="cpu|gpu:N", help="where both models compute")
    add_weight_flags(parser)
    add(
        "--weight-cache",
        metavar="DIR|off",
        help="where packed weights are kept (default: internvl/weights in the user's cache folder)",
    )


def _add_process_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    for tier, service in (("vision", "vision"), ("llm", "language")):
        add(
            f"--{tier}-replicas",
            type=_count,
            default=1,
            metavar="N",
            help=f"processes of the {service} service, each with the model (default: 1)",
        )
    add(
        "--threads",
        type=int,
        metavar="N",
        help="compute threads of each model process (default: half the cores for each tier)",
    )
    add(
        "--ready-timeout",
        type=float,
        default=_DEFAULTS.ready_timeout_s,
        metavar="S",
        help=f"longest wait for the models to load (default: {_DEFAULTS.ready_timeout_s:g})",
    )


def _add_place_flags(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--ports",
        type=_ports,
        default=Ports(),
        metavar="auto|GATEWAY,VISION,LLM[,HTTP]",
        help="where to listen (default: 50050,50051,50052,8000); auto picks free ports; HTTP 0 leaves it out",
    )
    add("--store", metavar="PATH|URL", help="as of the gateway: a file, or redis://... (default: in memory)")
    add(
        "--media-dir",
        metavar="DIR|URL",
        help="as of the gateway (default: PATH-media beside a store that is a file, or else forgotten)",
    )
    add("--log-dir", type=Path, metavar="DIR", help="write logs to files instead of standard error")
    add("--log-level", default=_DEFAULTS.log_level, choices=LOG_LEVELS, help="least severe log line")


def run(arguments: Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM (0), or until a service fails (1)."""
    config = LaunchConfig(
        model=arguments.model,
        device=arguments.device,
        weights=weights_of(arguments),
        weight_cache=arguments.weight_cache,
        ports=arguments.ports,
        vision_replicas=arguments.vision_replicas,
        llm_replicas=arguments.llm_replicas,
        threads=arguments.threads,
        store=arguments.store,
        media_dir=arguments.media_dir,
        log_dir=arguments.log_dir,
        log_level=arguments.log_level,
        ready_timeout_s=arguments.ready_timeout,
    )
    signal.signal(signal.SIGTERM, _interrupt)
    _report("starting vision, llm and gateway")
    try:
        with launch(config, log=_relay, report=_report) as stack:
            _announce(stack, config)
            stack.wait(_report)
    except KeyboardInterrupt:
        _report("stopped")
        return 0
    except LaunchError as error:
        _report(f"{error}")
        return 1
    return 0


command = Command("up", "Serve vision, language and gateway on this machine.", configure, run)


def _ports(text: str) -> Ports | None:
    if text == "auto":
        return None
    numbers = [int(number) if number.isdigit() else 0 for number in text.split(",")]
    if len(numbers) == 3:
        numbers.append(Ports().http)
    needed = numbers[:3] if text.endswith(",0") else numbers
    if len(numbers) != 4 or len(set(numbers)) != 4 or not all(0 < number < 65536 for number in needed):
        raise argparse.ArgumentTypeError(
            "expected auto, or three or four different ports such as 50050,50051,50052,8000"
        )
    return Ports(*numbers)


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 64:
        raise argparse.ArgumentTypeError("must be a whole number, 1 to 64")
    return int(text)


def _announce(stack: Stack, config: LaunchConfig) -> None:
    for name, process in stack.processes.items():
        print(f"{name:<8} {process.service.address:<16} process {process.pid}")
    if stack.http_url:
        print(f"http     {stack.http_url}   (the base URL for OpenAI clients)")
    address = stack.gateway_address
    hint = "" if address.endswith(":50050") else f" --address {address}"
    print(f"Try: internvl chat{hint} {_question(config)}", flush=True)
    _report("Ctrl-C stops them all")


def _question(config: LaunchConfig) -> str:
    """One that the model can answer: the embedded one knows its own drawings and no photos."""
    if config.model is not None:
        return '-i photo.jpg "What is this?"'
    return f'-i {shlex.quote(os.path.relpath(NANO / "demo" / "shapes.png"))} "Describe the image."'


def _relay(name: str, line: str) -> None:
    print(f"{name:<8}| {line}", file=sys.stderr, flush=True)


def _report(line: str) -> None:
    print(f"internvl up: {line}", file=sys.stderr, flush=True)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
