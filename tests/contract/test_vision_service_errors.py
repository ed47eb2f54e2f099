"""What the vision service refuses: how it says so, and that the next request works."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import grpc
import pytest

from internvl.errors import InvalidField
from internvl.rpc import error_from_rpc
from internvl.v1 import content_pb2, tensor_pb2, vision_service_pb2
from tests.contract.vision_samples import (
    MAX_BYTES,
    Open,
    OpenStream,
    Stub,
    encode,
    image,
    refusal,
    requests,
    video,
)
from tests.unit.media_samples import encoded, film, picture

PHOTO = encoded(picture(170, 120))
FILM = film(20)

BAD_OPTIONS = [
    (Open(), "open.options: image or video must be set"),
    (image(max_tiles=0), "open.image.max_tiles: must be 1 to 40, got 0"),
    (image(max_tiles=99), "open.image.max_tiles: must be 1 to 40, got 99"),
    (image(min_tiles=0), "open.image.min_tiles: must be 1 to max_tiles (12), got 0"),
    (image(min_tiles=13), "open.image.min_tiles: must be 1 to max_tiles (12), got 13"),
    (image(min_tiles=5, max_tiles=4), "open.image.min_tiles: must be 1 to max_tiles (4), got 5"),
    (
        image(detail=content_pb2.DETAIL_LOW, max_tiles=6),
        "open.image.detail: stands for a max_tiles; set one of the two",
    ),
    (image(detail=9), "open.image.detail: must be low, medium or high, got 9"),
    (
        image(detail=content_pb2.DETAIL_LOW, min_tiles=7),
        "open.image.min_tiles: must be 1 to max_tiles (6), got 7",
    ),
    (video(frames=0), "open.video.frames: must be 1 to 128, got 0"),
    (video(frames=129), "open.video.frames: must be 1 to 128, got 129"),
    (video(tiles_per_frame=0), "open.video.tiles_per_frame: must be 1 to 40, got 0"),
    (video(tiles_per_frame=41), "open.video.tiles_per_frame: must be 1 to 40, got 41"),
    (video(start_s=-1), "open.video.start_s: must be 0 or more seconds, got -1"),
    (video(start_s=float("nan")), "open.video.start_s: must be 0 or more seconds, got nan"),
    (video(end_s=float("inf")), "open.video.end_s: must be 0 or more seconds, got inf"),
    (video(start_s=2, end_s=2), "open.video.end_s: must be above start_s (2), got 2"),
    (video(end_s=0), "open.video.end_s: must be above start_s (0), got 0"),
    (
        Open(image=content_pb2.ImageOptions(), dtype=tensor_pb2.DATA_TYPE_UNSPECIFIED),
        "open.dtype: must be one of DATA_TYPE_FLOAT32, DATA_TYPE_BFLOAT16, DATA_TYPE_INT8",
    ),
    (
        Open(image=content_pb2.ImageOptions(), size_bytes=MAX_BYTES + 1),
        f"open.size_bytes: the file is longer than the limit of {MAX_BYTES} bytes",
    ),
]


@pytest.mark.parametrize(
    ("open_message", "message"), BAD_OPTIONS, ids=[message for _, message in BAD_OPTIONS]
)
def test_bad_options_are_refused_before_the_file_is_sent(
    vision: Stub, open_message: Open, message: str
) -> None:
    """Only `open` is sent and the stream stays open; the answer comes all the same."""
    waiting = OpenStream(vision_service_pb2.EncodeRequest(open=open_message))
    error = refusal(lambda: list(vision.Encode(waiting, timeout=30)))
    waiting.release()
    assert isinstance(error, InvalidField)
    assert error.message == message


BAD_FILES = [
    (image(), b"", "chunk: the file is empty"),
    (
        image(),
        b"nothing that anybody knows",
        "chunk: unknown format; JPEG, PNG, WebP, GIF, BMP, TIFF, MP4, MOV",
    ),
    (image(), PHOTO[: len(PHOTO) // 2], "chunk: the picture is damaged or cut short"),
    (image(), bytes(MAX_BYTES + 1), f"chunk: the file is longer than the limit of {MAX_BYTES} bytes"),
    (image(), FILM, "chunk: expected a picture, found a film (video/mp4)"),
    (video(), PHOTO, "chunk: expected a film, found a picture (image/png)"),
    (video(), FILM[: len(FILM) // 2], "chunk: the film is damaged, cut short or of an unknown codec"),
    (video(start_s=2), FILM, "open.video.start_s: must be before the film's end at 2.000 s, got 2"),
    (image(), encoded(picture(600, 2)), "chunk: 600 x 2 pixels; one side may be at most 200 times the other"),
    (
        Open(image=content_pb2.ImageOptions(), first_tile=7),
        PHOTO,
        "open.first_tile: must be 0 to 6, the last tile, got 7",
    ),
]


@pytest.mark.parametrize(("open_message", "data", "message"), BAD_FILES, ids=[row[2] for row in BAD_FILES])
def test_bad_files_fail_alone(vision: Stub, open_message: Open, data: bytes, message: str) -> None:
    error = refusal(lambda: list(vision.Encode(requests(open_message, data), timeout=60)))
    assert isinstance(error, InvalidField)
    assert error.message.startswith(message)
    assert len(encode(vision, image(), PHOTO).tiles) == 7


def test_streams_must_open_once_and_first(vision: Stub) -> None:
    chunk = vision_service_pb2.EncodeRequest(chunk=b"x")
    opening = vision_service_pb2.EncodeRequest(open=image())
    for messages, text in (
        ([], "open: must be the first message of the stream"),
        ([chunk, opening], "open: must be the first message of the stream"),
        ([vision_service_pb2.EncodeRequest()], "open: must be the first message of the stream"),
        ([opening, opening], "chunk: must be set in every message after the first"),
    ):
        error = refusal(lambda messages=messages: list(vision.Encode(iter(messages), timeout=30)))
        assert error.message == text


BAD_PLANS = [
    ([], "items: must be 1 to 1000 items, got 0"),
    ([{"width": 0, "height": 5, "image": {}}], "items[0].width: must be at least 1, got 0"),
    ([{"width": 5, "height": 0, "image": {}}], "items[0].height: must be at least 1, got 0"),
    (
        [{"width": 5, "height": 5, "image": {}}, {"width": 5, "height": 5}],
        "items[1].options: image or video must",
    ),
    (
        [{"width": 5, "height": 5, "image": {"max_tiles": 41}}],
        "items[0].image.max_tiles: must be 1 to 40, got 41",
    ),
    ([{"width": 5, "height": 5, "video": {"frames": 0}}], "items[0].video.frames: must be 1 to 128, got 0"),
    ([{"width": 2000, "height": 5, "image": {}}], "items[0]: 2000 x 5 pixels; one side may be at most 200"),
    (
        [{"width": 99999, "height": 99999, "image": {}}],
        "items[0]: 99999 x 99999 pixels; at most 64000000 in all",
    ),
    (
        [{"width": 900, "height": 900, "video": {"frames": 128, "tiles_per_frame": 9}}],
        "items[0].video: makes 1280 tiles; at most 256 an item are taken",
    ),
]


@pytest.mark.parametrize("budget", [0, 1])
def test_a_budget_is_at_least_a_tile_for_each_item(vision: Stub, budget: int) -> None:
    items = [vision_service_pb2.PlanItem(width=5, height=5, image=content_pb2.ImageOptions())] * 2
    request = vision_service_pb2.PlanRequest(items=items, tile_budget=budget)
    error = refusal(lambda: vision.Plan(request, timeout=10))
    assert error.message == f"tile_budget: must be at least 1 for each of 2 items, got {budget}"


@pytest.mark.parametrize(("items", "message"), BAD_PLANS, ids=[message for _, message in BAD_PLANS])
def test_bad_plans(vision: Stub, items: list[dict[str, Any]], message: str) -> None:
    request = vision_service_pb2.PlanRequest(items=[vision_service_pb2.PlanItem(**item) for item in items])
    error = refusal(lambda: vision.Plan(request, timeout=10))
    assert isinstance(error, InvalidField)
    assert error.message.startswith(message)


def decode_or_raise(vision: Stub, open_message: Open, data: bytes) -> None:
    try:
        encode(vision, open_message, data)
    except grpc.RpcError as error:
        raise error_from_rpc(error, "vision service") from error


def test_truncated_uploads_never_stop_the_service(vision: Stub) -> None:
    for data, open_message in ((encoded(picture(), "JPEG"), image()), (FILM, video(frames=1))):
        for length in range(1, len(data), max(1, len(data) // 25)):
            with suppress(InvalidField):
                decode_or_raise(vision, open_message, data[:length])
    assert len(encode(vision, image(), PHOTO).tiles) == 7
