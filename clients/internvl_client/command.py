"""`internvl chat`: ask one question, or talk."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import cast

from internvl.cli import Command
from internvl.errors import ConfigError
from internvl_client.answer import Answer
from internvl_client.channel import ADDRESS_VARIABLE, API_KEY_VARIABLE, DEFAULT_TIMEOUT_S, default_address
from internvl_client.client import Client
from internvl_client.content import Image, MediaSource, Video
from internvl_client.errors import InternVLError, ServerError, Unavailable
from internvl_client.options import SamplingOptions
from internvl_client.requests import MAX_INLINE_BYTES
from internvl_client.terminal import Screen, Talk

_GREETING_TIMEOUT_S = 10.0


def configure(parser: ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("question", nargs="?", help="one question; without it, talk until /quit")
    add("-i", "--image", action="append", default=[], metavar="FILE", help="show a picture; may repeat")
    add("-v", "--video", action="append", default=[], metavar="FILE", help="show a film; may repeat")
    address = default_address()
    add(
        "--address",
        default=address,
        metavar="TARGET",
        help=f"gateway (default: {address}; {ADDRESS_VARIABLE})",
    )
    add("--api-key", metavar="KEY", help=f"API key or token; {API_KEY_VARIABLE} shows it to fewer eyes")
    add("--tls", action="store_true", help="encrypt, and trust the usual authorities")
    add("--tls-ca", type=Path, metavar="FILE", help="encrypt, and trust the authorities of this PEM file")
    add("--system", metavar="TEXT", help="instructions (default: those of the model's training)")
    add("--timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="S", help="longest wait for an answer")
    add("--stats", action="store_true", help="show token counts and times")
    add(
        "--replay-bundle",
        type=Path,
        metavar="FILE",
        help="write a file for `internvl replay`",
    )
    add = parser.add_argument_group("pictures and films").add_argument
    add("--max-tiles", type=int, metavar="N", help="most tiles of a picture")
    add("--frames", type=int, metavar="N", help="frames to sample from a film")
    add = parser.add_argument_group("sampling (default: greedy)").add_argument
    add("--temperature", type=float, metavar="T", help="0 is greedy; at most 2")
    add("--top-k", type=int, metavar="K", help="choose among the K likeliest tokens")
    add("--top-p", type=float, metavar="P", help="choose among the likeliest tokens that add up to P")
    add("--repetition-penalty", type=float, metavar="R", help="above 1 discourages repetition")
    add("--seed", type=int, metavar="N", help="of the random numbers")
    add("--max-tokens", type=int, metavar="N", help="most tokens of an answer")
    add("--stop", action="append", metavar="TEXT", help="text that ends the answer; may repeat")
    form = parser.add_argument_group("form of the answer (default: free)").add_mutually_exclusive_group()
    form.add_argument("--json-schema", type=Path, metavar="FILE", help="JSON of the schema in this file")
    form.add_argument("--regex", metavar="PATTERN", help="the whole answer matches this regular expression")


def run(arguments: Namespace) -> int:
    """Ask or talk; 0 for success, 1 for a failed question, 130 for one that Ctrl-C stopped."""
    screen = Screen.of_process(stats=arguments.stats)
    try:
        with _connect(arguments) as client:
            return _chat(client, screen, arguments)
    except Unavailable as error:
        screen.note(f"internvl chat: {_explain(error, arguments.address)}")
        return 1
    except InternVLError as error:
        screen.note(f"internvl chat: {error}")
        return 1


command = Command("chat", "Talk to a model about pictures and films.", configure, run)


def _connect(arguments: Namespace) -> Client:
    try:
        return Client(
            arguments.address,
            api_key=arguments.api_key,
            timeout=arguments.timeout,
            tls=arguments.tls_ca or arguments.tls,
        )
    except ValueError as error:
        raise ConfigError(f"--api-key: {error}") from None


def _chat(client: Client, screen: Screen, arguments: Namespace) -> int:
    if arguments.question is None:
        if arguments.replay_bundle is not None:
            raise ConfigError("--replay-bundle: goes with a question")
        return _talk(client, screen, arguments)
    images = [Image(_source(client, screen, path), max_tiles=arguments.max_tiles) for path in arguments.image]
    videos = [Video(_source(client, screen, path), frames=arguments.frames) for path in arguments.video]
    stream = client.chat(
        arguments.question,
        images=images,
        videos=videos,
        system=arguments.system,
        replay_bundle=arguments.replay_bundle is not None,
        **_sampling(arguments),
    )
    with stream:
        screen.show(stream)
        if stream.cancelled:
            return 130
    _write_bundle(stream.result(), arguments.replay_bundle)
    return 0


def _source(client: Client, screen: Screen, path: str) -> MediaSource:
    """The file itself; a large one as an upload, which shows how far it is."""
    file = Path(path)
    return screen.upload(client, path) if file.is_file() and file.stat().st_size > MAX_INLINE_BYTES else path


def _write_bundle(answer: Answer, file: Path | None) -> None:
    if file is None:
        return
    if answer.replay_bundle is None:
        raise ServerError("the server made no replay bundle")
    file.write_bytes(answer.replay_bundle)


def _talk(client: Client, screen: Screen, arguments: Namespace) -> int:
    client.info(timeout=_GREETING_TIMEOUT_S)
    talk = Talk(client, screen, _sampling(arguments), arguments.system)
    for path in arguments.image:
        talk.show(Image(screen.upload(client, path), max_tiles=arguments.max_tiles))
    for path in arguments.video:
        talk.show(Video(screen.upload(client, path), frames=arguments.frames))
    talk.run()
    return 0


def _sampling(arguments: Namespace) -> SamplingOptions:
    """The options that were given; the others keep the server's defaults."""
    given = {
        "temperature": arguments.temperature,
        "top_k": arguments.top_k,
        "top_p": arguments.top_p,
        "repetition_penalty": arguments.repetition_penalty,
        "seed": arguments.seed,
        "max_tokens": arguments.max_tokens,
        "stop": arguments.stop,
        "json_schema": None if arguments.json_schema is None else arguments.json_schema.read_text("utf-8"),
        "regex": arguments.regex,
    }
    return cast(SamplingOptions, {name: value for name, value in given.items() if value is not None})


def _explain(error: Unavailable, address: str) -> str:
    """Tell a server that is not there from one that lacks a tier: only the latter gives a reason."""
    if error.reason:
        return error.message
    return f"there is no server at {address}; start one with `internvl up`"
