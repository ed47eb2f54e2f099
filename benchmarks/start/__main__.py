"""How long `internvl up` takes until the full model is ready, from released files and from packed weights.

    python -m benchmarks.start --quantize w4 --json FILE

Without --checkpoint a random one of InternVL2-4B is made in the user's cache folder, 8.3 GB. Beside that it
takes as much disk as the packed weights have (7.7 GiB in bf16), and memory for them and 2 GiB more. Files are
"not in memory" after posix_fadvise, which needs no rights; a hypervisor may still hold them.
docs/performance-4b.md says what came out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from benchmarks.memory import drop_from_page_cache, peak_rss
from benchmarks.random_model import random_checkpoint
from benchmarks.report import Row, add_report_flags, report
from deploy.launcher import LaunchConfig, Stack, launch
from internvl.checkpoint import series_config
from internvl.model_choice import add_weight_flags, weights_of
from internvl.model_config import read_model_config
from internvl.user_cache import user_cache
from internvl_client import Client, Conversation, Image

COLD_GOAL_S, CACHED_GOAL_S, EXTRA_GOAL_GIB = 60, 20, 1.5

_GIB = 2**30
_READY_S = 900
_KEPT_S = 600
_TOKENS = 16
_PICTURE = Path(__file__).parents[2] / "models/nano/demo/shapes.png"


@dataclass(frozen=True, slots=True)
class Talk:
    """Two turns about a picture: seconds to the first text of each, and tokens whose keys were written."""

    first_s: float
    second_s: float
    tokens: int


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="instead of a random one")
    parser.add_argument(
        "--max-tiles", type=int, default=4, metavar="N", help="of the picture asked about (4)"
    )
    add_weight_flags(parser)
    add_report_flags(parser)
    args = parser.parse_args(argv)
    checkpoint = args.checkpoint or random_checkpoint(
        _cache_folder() / "InternVL2-4B-random", series_config("InternVL2-4B")
    )
    # Gigabytes: the system's own folder for temporary files may be memory.
    with tempfile.TemporaryDirectory(dir=_cache_folder()) as folder:
        report(list(_rows(checkpoint, weights_of(args) or "bf16", Path(folder), args.max_tiles)), args.json)


def _rows(checkpoint: Path, weights: str, cache: Path, max_tiles: int) -> Iterator[Row]:
    config = LaunchConfig(
        model=checkpoint, weights=weights, weight_cache=str(cache), ports=None, ready_timeout_s=_READY_S
    )
    drop_from_page_cache(checkpoint)
    began = time.monotonic()
    with launch(config) as stack:
        seconds = time.monotonic() - began
        yield _against_goal("start_cold_s", seconds, COLD_GOAL_S, f"{weights}, released files not in memory")
        talk = _talk(stack, max_tiles)
        yield Row("first_text_s", talk.first_s, "s", f"picture of up to {max_tiles} tiles")
        yield Row("second_turn_s", talk.second_s, "s", "first text of the second turn")
        peak = peak_rss(process.pid for process in stack.processes.values())
        held = _wait_until_kept(cache)
        written = talk.tokens * _token_bytes(checkpoint)
        yield Row("peak_rss_gib", peak / _GIB, "GiB", f"{weights}, three services and their decoders")
        yield Row("weights_gib", held / _GIB, "GiB", "packed, as on disk")
        extra = (peak - held - written) / _GIB
        yield _against_goal("rss_extra_gib", extra, EXTRA_GOAL_GIB, "beyond weights and keys written", "GiB")
    drop_from_page_cache(cache)
    seconds = _seconds_to_ready(config)
    yield _against_goal(
        "start_cached_from_disk_s", seconds, CACHED_GOAL_S, f"{weights}, packed weights not in memory"
    )
    seconds = _seconds_to_ready(config)
    yield _against_goal("start_cached_s", seconds, CACHED_GOAL_S, f"{weights}, packed weights in page cache")


def _against_goal(metric: str, value: float, goal: float, how: str, unit: str = "s") -> Row:
    return Row(metric, value, unit, f"goal <= {goal}; {how}", value / goal)


def _seconds_to_ready(config: LaunchConfig) -> float:
    began = time.monotonic()
    with launch(config):
        return time.monotonic() - began


def _talk(stack: Stack, max_tiles: int) -> Talk:
    with Client(stack.gateway_address, timeout=_READY_S) as client:
        conversation = client.conversation()
        picture = Image(_PICTURE, max_tiles=max_tiles)
        first, _ = _ask(conversation, "Describe the image.", [picture])
        second, tokens = _ask(conversation, "Where is the star?", [])
        return Talk(first, second, tokens)


def _ask(conversation: Conversation, question: str, images: list[Image]) -> tuple[float, int]:
    """Seconds to the first text, and all tokens of the conversation so far."""
    began = time.monotonic()
    stream = conversation.say(question, images=images, max_tokens=_TOKENS)
    next(iter(stream), None)
    seconds = time.monotonic() - began
    usage = stream.result().usage
    return seconds, usage.prompt_tokens + usage.completion_tokens


def _wait_until_kept(cache: Path) -> int:
    """Bytes of the packed weights of both tiers, once both are written."""
    with tqdm(desc="packed weights written", total=2, leave=False) as bar:
        end = time.monotonic() + _KEPT_S
        while (count := len(files := list(cache.glob("*.weights")))) < 2:
            bar.update(count - bar.n)
            if time.monotonic() > end:
                raise TimeoutError(f"packed weights not written in {_KEPT_S} s")
            time.sleep(0.5)
    return sum(file.stat().st_size for file in files)


def _token_bytes(checkpoint: Path) -> int:
    """Bytes of a token's keys and values in bfloat16."""
    llm = read_model_config(checkpoint).llm
    return 2 * 2 * llm.num_hidden_layers * llm.num_key_value_heads * llm.head_dim


def _cache_folder() -> Path:
    folder = user_cache("benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main()
