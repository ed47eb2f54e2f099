"""What is measured, each as the rows it gives."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc

from benchmarks.engine.rounds import alternate
from benchmarks.report import Row
from benchmarks.vision.client import Timing, encode_all, upload
from benchmarks.vision.photos import photo
from benchmarks.vision.service import Service, running_service
from internvl.checkpoint import series_config, write_random_checkpoint
from internvl.v1 import content_pb2, vision_service_pb2, vision_service_pb2_grpc

CLIENTS = (1, 4, 16)
_PHOTOS = 96
_ROUNDS = 5
_SMALL = 100  # pixels: one tile of the embedded model
_DOCUMENTS = 12


def throughput(service: Service) -> Iterator[Row]:
    """Many small photos, one tile each, by so many clients at once; and how busy the encoder was."""
    busy: dict[int, list[float]] = {clients: [] for clients in CLIENTS}

    def run(clients: int) -> float:
        uploads = [upload(photo(_SMALL, _SMALL)) for _ in range(_PHOTOS)]
        before = service.metric("encoder_busy_seconds_total")
        seconds, timings = encode_all(service.address, uploads, clients)
        busy[clients].append((service.metric("encoder_busy_seconds_total") - before) / seconds)
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


def first_tile(service: Service) -> Iterator[Row]:
    """A picture of 12 tiles and a thumbnail, alone."""
    timings = [_alone(service, upload(photo(448, 336), max_tiles=12)) for _ in range(_DOCUMENTS)]
    share = statistics.median(timing.first_s / timing.last_s for timing in timings)
    yield Row("first_tile_over_last", share, "x", "goal <= 0.25; 13 tiles", share / 0.25)
    yield Row("first_tile_ms", 1e3 * statistics.median(timing.first_s for timing in timings), "ms")
    yield Row("last_tile_ms", 1e3 * statistics.median(timing.last_s for timing in timings), "ms")


def repeats(service: Service) -> Iterator[Row]:
    """The same picture again: uploaded, found by its name, and sent."""
    speedups, again = [], []
    for _ in range(_DOCUMENTS):
        messages = upload(photo(1600, 1200), max_tiles=12)
        first = _alone(service, messages).last_s
        again.append(statistics.median(_alone(service, messages).last_s for _ in range(5)))
        speedups.append(first / again[-1])
    speedup = statistics.median(speedups)
    yield Row("repeat_speedup", speedup, "x", "goal >= 50; the first time; 13 tiles", speedup / 50)
    yield Row("repeat_ms", 1e3 * statistics.median(again), "ms")


def plans(service: Service) -> Iterator[Row]:
    """Plan calls over gRPC, one after another, as their client sees them."""
    with grpc.insecure_channel(service.address) as channel:
        stub = vision_service_pb2_grpc.VisionServiceStub(channel)
        for name, items, budget in (("plan_p99_ms", 1, None), ("plan_16_items_p99_ms", 16, 64)):
            photos = [
                vision_service_pb2.PlanItem(width=900 + 7 * n, height=700, image=content_pb2.ImageOptions())
                for n in range(items)
            ]
            request = vision_service_pb2.PlanRequest(items=photos, tile_budget=budget)
            times = [_seconds_of_plan(stub, request) for _ in range(1100)][100:]
            p99 = 1e3 * statistics.quantiles(times, n=100)[98]
            if budget is None:
                yield Row(name, p99, "ms", "goal <= 1", p99)
                yield Row("plan_p50_ms", 1e3 * statistics.median(times), "ms")
            else:
                yield Row(name, p99, "ms", f"with a tile_budget of {budget}")


def large_tower() -> Iterator[Row]:
    """The tower and projector of InternVL2-4B with random weights: photos of one tile."""
    raw = series_config("InternVL2-4B")
    # The decoder is not loaded here; the smallest that makes the checkpoint whole.
    raw["llm_config"] |= {"num_hidden_layers": 1, "vocab_size": 100}
    with tempfile.TemporaryDirectory() as folder:
        write_random_checkpoint(Path(folder), raw, seed=0)
        with running_service("--model", folder) as service:

            def run(clients: int) -> float:
                uploads = [upload(photo(448, 448)) for _ in range(4)]
                return encode_all(service.address, uploads, clients)[0] / len(uploads)

            run(4)
            seconds = alternate("300M tower", 2, {clients: partial(run, clients) for clients in (1, 4)})
    yield Row("tower_300m_s_per_tile", seconds.median(1), "s", "one client")
    ratio = seconds.ratio(1, 4)
    yield Row("tower_300m_ratio_4", ratio, "x", "one client", ratio)


def _alone(service: Service, messages: list[bytes]) -> Timing:
    return encode_all(service.address, [messages], 1)[1][0]


def _seconds_of_plan(
    stub: vision_service_pb2_grpc.VisionServiceStub, request: vision_service_pb2.PlanRequest
) -> float:
    began = time.perf_counter()
    stub.Plan(request)
    return time.perf_counter() - began
