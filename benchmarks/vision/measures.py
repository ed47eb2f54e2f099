"""What is measured, each as the rows it gives."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tqdm import tqdm

from benchmarks.report import Row
from benchmarks.rounds import alternate
from benchmarks.vision.client import Timing, encode_all, seconds_of_plans, upload
from benchmarks.vision.echo import echo_upload
from benchmarks.vision.photos import photo
from benchmarks.vision.service import Service, running_service
from internvl.checkpoint import series_config, write_random_checkpoint
from internvl.v1 import content_pb2, vision_service_pb2

CLIENTS = (1, 4, 16)
_PHOTOS = 96
_ROUNDS = 5
_SMALL = 100  # pixels: one tile of the embedded model
_DOCUMENTS = 12
_PLANS, _PLAN_ROUNDS = 1000, 4
_SPENT = ("encoder_busy_seconds_total", "decode_seconds_sum", "decode_overlapped_seconds_total")


def throughput(service: Service) -> Iterator[Row]:
    """Many small photos, one tile each, by so many clients at once; and how busy the encoder was."""
    busy: dict[int, list[float]] = {clients: [] for clients in CLIENTS}
    overlapped: dict[int, list[float]] = {clients: [] for clients in CLIENTS}

    def run(clients: int) -> float:
        uploads = [upload(photo(_SMALL, _SMALL)) for _ in range(_PHOTOS)]
        before = service.metrics(*_SPENT)
        seconds, timings = encode_all(service.address, uploads, clients)
        encoding, decoding, both = (
            after - earlier for after, earlier in zip(service.metrics(*_SPENT), before, strict=True)
        )
        busy[clients].append(encoding / seconds)
        overlapped[clients].append(both / decoding)
        return sum(timing.tiles for timing in timings) / seconds

    run(max(CLIENTS))
    rates = alternate("photos", _ROUNDS, {clients: partial(run, clients) for clients in CLIENTS})
    for clients in CLIENTS[1:]:
        goal = 3 if clients == max(CLIENTS) else None
        against = "one client" + (f"; goal >= {goal}" if goal else "")
        ratio = rates.ratio(clients, 1)
        yield Row(f"throughput_ratio_{clients}", ratio, "x", against, ratio / goal if goal else None)
    for clients in CLIENTS:
        yield Row(f"tiles_per_s_{clients}", rates.median(clients), "tiles/s")
    share = statistics.median(busy[max(CLIENTS)])
    yield Row("encoder_busy", share, "share", "goal >= 0.9; 16 clients", share / 0.9)
    yield Row("encoder_busy_1", statistics.median(busy[1]), "share", "one client: nothing overlaps")
    for clients in CLIENTS:
        share = statistics.median(overlapped[clients])
        yield Row(f"overlap_share_{clients}", share, "share", "seconds of decoding")


def first_tile(service: Service) -> Iterator[Row]:
    """A picture of 12 tiles and a thumbnail, alone."""
    timings = [_alone(service.address, upload(photo(448, 336), max_tiles=12)) for _ in range(_DOCUMENTS)]
    share = statistics.median(timing.first_s / timing.last_s for timing in timings)
    yield Row("first_tile_over_last", share, "x", "goal <= 0.25; 13 tiles", share / 0.25)
    yield Row("first_tile_ms", 1e3 * statistics.median(timing.first_s for timing in timings), "ms")
    yield Row("last_tile_ms", 1e3 * statistics.median(timing.last_s for timing in timings), "ms")


def repeats(service: Service, echo: str) -> Iterator[Row]:
    """The same picture again: uploaded, found by its name, sent; and such messages with no service behind."""
    speedups, again, bare = [], [], []
    for _ in range(_DOCUMENTS):
        messages = upload(photo(1600, 1200), max_tiles=12)
        first = _alone(service.address, messages)
        like = echo_upload(messages, list(first.lengths))
        again.append(statistics.median(_alone(service.address, messages).last_s for _ in range(5)))
        bare.append(statistics.median(_alone(echo, like).last_s for _ in range(5)))
        speedups.append(first.last_s / again[-1])
    speedup, echo_ms = statistics.median(speedups), 1e3 * statistics.median(bare)
    yield Row("repeat_speedup", speedup, "x", "goal >= 50; the first time; 13 tiles", speedup / 50)
    over = statistics.median(one / other for one, other in zip(again, bare, strict=True))
    yield Row("repeat_ms", 1e3 * statistics.median(again), "ms", f"grpc.aio alone: {echo_ms:.2f}", over)


def plans(service: Service, echo: str) -> Iterator[Row]:
    """Plan calls over gRPC, one after another, as their client sees them; and calls that do nothing."""
    sides = {
        "1": (service.address, _plan_of(1, None)),
        "16": (service.address, _plan_of(16, 64)),
        "echo": (echo, _plan_of(1, None)),
    }
    times: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(_PLAN_ROUNDS):
        for side, (address, request) in sides.items():
            times[side] += seconds_of_plans(address, request, _PLANS // _PLAN_ROUNDS)
    p50 = {side: 1e3 * statistics.median(some) for side, some in times.items()}
    p99 = {side: 1e3 * statistics.quantiles(some, n=100)[98] for side, some in times.items()}
    alone = f"grpc.aio alone: {p99['echo']:.2f}"
    yield Row("plan_p99_ms", p99["1"], "ms", f"goal <= 1; {alone}", p99["1"])
    yield Row("plan_p50_ms", p50["1"], "ms", f"grpc.aio alone: {p50['echo']:.2f}", p50["1"] / p50["echo"])
    yield Row(
        "plan_16_items_p99_ms", p99["16"], "ms", f"with a tile_budget of 64; {alone}", p99["16"] / p99["echo"]
    )
    yield Row(
        "plan_16_items_p50_ms", p50["16"], "ms", f"grpc.aio alone: {p50['echo']:.2f}", p50["16"] / p50["echo"]
    )


def large_tower() -> Iterator[Row]:
    """The tower and projector of InternVL2-4B with random weights in bfloat16: photos of one tile."""
    raw = series_config("InternVL2-4B")
    # The decoder is not loaded here; the smallest that makes the checkpoint whole.
    raw["llm_config"] |= {"num_hidden_layers": 1, "vocab_size": 100}
    with tempfile.TemporaryDirectory() as folder:
        tqdm.write("300M tower: writing random weights")
        write_random_checkpoint(Path(folder), raw, seed=0)
        tqdm.write("300M tower: loading them")
        with running_service("--model", folder, "--dtype", "bf16") as service:

            def run(clients: int) -> float:
                uploads = [upload(photo(448, 448)) for _ in range(clients)]
                return encode_all(service.address, uploads, clients)[0] / len(uploads)

            messages = upload(photo(448, 448))
            first = _alone(service.address, messages).last_s
            again = statistics.median(_alone(service.address, messages).last_s for _ in range(5))
            seconds = alternate("300M tower", 2, {clients: partial(run, clients) for clients in (1, 4)})
    yield Row("tower_300m_s_per_tile", seconds.median(1), "s", "one client")
    ratio = seconds.ratio(1, 4)
    yield Row("tower_300m_ratio_4", ratio, "x", "one client", ratio)
    yield Row(
        "tower_300m_repeat_speedup",
        first / again,
        "x",
        "goal >= 50; the first time; 1 tile",
        first / again / 50,
    )


def _alone(address: str, messages: list[bytes]) -> Timing:
    return encode_all(address, [messages], 1)[1][0]


def _plan_of(items: int, budget: int | None) -> bytes:
    photos = [
        vision_service_pb2.PlanItem(width=900 + 7 * number, height=700, image=content_pb2.ImageOptions())
        for number in range(items)
    ]
    return vision_service_pb2.PlanRequest(items=photos, tile_budget=budget).SerializeToString()
