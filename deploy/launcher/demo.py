"""`python -m deploy.launcher.demo`: start the system and ask it about the files that ship with its model."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from deploy.launcher.config import LaunchConfig
from deploy.launcher.demo_story import NANO, Scene, Turn, read_scenes
from deploy.launcher.stack import LaunchError, launch
from internvl.errors import ConfigError
from internvl_client import ChatStream, Client, Conversation, Image, InternVLError, Video
from internvl_client.options import SayOptions


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; 0 if every answer is the expected one."""
    args = _parse(argv)
    began = time.monotonic()
    try:
        scenes = read_scenes(args.model / "demo")
        wrong = _run(scenes, args.model)
    except (ConfigError, LaunchError, InternVLError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    total = sum(len(scene.turns) for scene in scenes)
    print(f"{total - wrong} of {total} answers as expected, {time.monotonic() - began:.0f} s in all.")
    return 1 if wrong else 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m deploy.launcher.demo", description=__doc__)
    parser.add_argument(
        "--model", type=Path, default=NANO, metavar="DIR", help="checkpoint with a demo folder (models/nano)"
    )
    return parser.parse_args(argv)


def _run(scenes: Sequence[Scene], model: Path) -> int:
    """Start the services, play all scenes, and count the answers that differ."""
    print("Starting three services on this machine ...", flush=True)
    config = LaunchConfig(model=model, ports=None)
    with launch(config, report=_report) as stack, Client(stack.gateway_address) as client:
        print(f"\nAsking {client.info().model_name} over gRPC at {stack.gateway_address}.\n")
        return sum(play(client, scene) for scene in scenes)


def play(client: Client, scene: Scene) -> int:
    """Hold one conversation and count the answers that are not the expected ones.

    Raises:
        InternVLError: a question could not be answered at all.
    """
    print(f"{scene.name} ({', '.join(path.name for path in scene.files)})")
    conversation = client.conversation()
    right = [
        _ask(conversation, turn, _shown(scene) if number == 0 else SayOptions())
        for number, turn in enumerate(scene.turns)
    ]
    conversation.delete()
    print()
    return right.count(False)


def _ask(conversation: Conversation, turn: Turn, shown: SayOptions) -> bool:
    """Print a question and its answer as it comes, and whether it is the expected one."""
    print(f"  {turn.question}\n    ", end="", flush=True)
    stream = conversation.say(turn.question, **shown)
    for text in stream:
        print(text, end="", flush=True)
    right = stream.text.strip() == turn.answer
    verdict = "" if right else f"   <-- expected: {turn.answer}"
    print(f"{verdict}   [{_describe(stream)}]", flush=True)
    return right


def _shown(scene: Scene) -> SayOptions:
    if scene.frames:
        return SayOptions(videos=[Video(path, frames=scene.frames) for path in scene.files])
    return SayOptions(images=[Image(path) for path in scene.files])


def _describe(stream: ChatStream) -> str:
    tiles = sum(layout.tiles for layout in stream.started.layouts) if stream.started else 0
    first_ms = stream.timings.first_token_ms if stream.timings else 0.0
    return f"{tiles} tile{'s' if tiles != 1 else ''}, first text after {first_ms:.0f} ms"


def _report(line: str) -> None:
    print(f"  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
