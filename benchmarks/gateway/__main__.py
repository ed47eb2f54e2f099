"""What the gateway adds to a call, how fast tiles pass through it, and how much of it idles.

    python -m benchmarks.gateway --json FILE

docs/performance-gateway.md says what each row means.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Awaitable, Callable, Iterator, Sequence

from benchmarks.gateway.bare import BareRig, bare_gateway
from benchmarks.gateway.latency import latency_rows
from benchmarks.gateway.processes import Measured
from benchmarks.gateway.processor import processor_rows
from benchmarks.gateway.released import encode_seconds
from benchmarks.report import Row, add_report_flags, report
from deploy.launcher import LaunchConfig, launch

_TILES, _TILE_MIB = 13, 1.5
_SPLICED = 100
_MOST_SHARE = 0.05


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=6, metavar="N", help="rounds of 16 streams (6)")
    parser.add_argument(
        "--skip-released", action="store_true", help="leave out the row that encodes at the width of 4B"
    )
    add_report_flags(parser)
    args = parser.parse_args(argv)
    rows = list(_rows(args.rounds, skip_released=args.skip_released))
    report(rows, args.json)


def _rows(rounds: int, *, skip_released: bool) -> Iterator[Row]:
    with launch(LaunchConfig(ports=None)) as stack:
        latency = asyncio.run(latency_rows(stack.gateway_address, stack.llm_address, rounds))
    yield from latency
    bare = asyncio.run(_bare())
    yield from bare
    if not skip_released:
        yield from _share({row.metric: row.value for row in (*latency, *bare)}, encode_seconds())


async def _bare() -> list[Row]:
    async with bare_gateway() as rig:
        return [await _idle(rig), *await processor_rows(rig), await _spliced(rig), await _held(rig)]


async def _idle(rig: BareRig) -> Row:
    await rig.ask(tiles=0)
    return Row("idle_rss_mib", rig.gateway.rss_mib(), "MiB", "goal <= 150", rig.gateway.rss_mib() / 150)


async def _spliced(rig: BareRig) -> Row:
    rates, floors = [], []
    for _ in range(7):
        rates.append(await _rate(rig.ask, rig.gateway))
        floors.append(await _rate(rig.send_by_proxy, rig.proxy))
    rate, floor = statistics.median(rates), statistics.median(floors)
    against = f"goal >= 500; median of {min(rates):.0f} to {max(rates):.0f}; a bare proxy {floor:.0f}"
    return Row("splice_mb_s", rate, "MB/core-s", against, rate / 500)


async def _rate(ask: Callable[[int], Awaitable[None]], process: Measured) -> float:
    """MB of tiles for a second of the processor time of that process."""
    before = process.cpu_seconds()
    await ask(_SPLICED)
    return _SPLICED * _TILE_MIB * 2**20 / 1e6 / (process.cpu_seconds() - before)


async def _held(rig: BareRig) -> Row:
    wanted = 1000
    async with rig.held(wanted) as held:
        await rig.ask(tiles=1)
        return Row(
            "idle_streams", held, "streams", f"goal >= {wanted}, and another turn beside them", held / wanted
        )


def _share(measured: dict[str, float], encode_s: float) -> Iterator[Row]:
    """The hop of a picture of 13 tiles at the shapes of 4B, against encoding it in the same process."""
    added_s = measured["added_ttft_p50_ms"] / 1e3
    tile_s = _TILE_MIB * 2**20 / 1e6 / measured["splice_mb_s"]
    colocated_s = _TILES * encode_s
    # Each tile but the last crosses while the next one is encoded.
    hop_s = max(added_s, 0.0) + tile_s
    against = f"goal <= {_MOST_SHARE}; 13 tiles of 4B, language's own time left out"
    share = hop_s / (hop_s + colocated_s)
    yield Row("hop_share", share, "of cold first text", against, share / _MOST_SHARE)
    yield Row("colocated_encode_s", colocated_s, "s", "the same picture, one process, no hop")
    yield Row("hop_ms", hop_s * 1e3, "ms", "added latency and the last tile's way")
    yield Row(
        "hop_ms_unpipelined", (max(added_s, 0.0) + _TILES * tile_s) * 1e3, "ms", "if nothing overlapped"
    )
    even_s = hop_s * (1 / _MOST_SHARE - 1)
    yield Row("break_even_encode_ms", even_s * 1e3, "ms", "13 tiles encoded in less: the hop is above 5 %")


if __name__ == "__main__":
    main()
