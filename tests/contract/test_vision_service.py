"""The vision service as its callers see it, over real gRPC, with a small random model."""

from __future__ import annotations

from pathlib import Path

import grpc
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from internvl.tensors import from_proto
from internvl.v1 import (
    content_pb2,
    llm_service_pb2,
    tensor_pb2,
    vision_service_pb2,
)
from tests.contract.vision_samples import (
    HIDDEN_SIZE,
    MAX_BYTES,
    TILE_SIDE,
    TOKENS_PER_TILE,
    Encoded,
    Open,
    Stub,
    encode,
    image,
    refusal,
    requests,
    small_config,
    video,
)
from tests.unit.media_samples import encoded, film, picture
from vision_service.limits import MediaLimits
from vision_service.loading import open_model
from vision_service.media import decode_media
from vision_service.options import ImageOptions
from vision_service.preprocessing import normalise
from vision_service.tiling import TilingOptions

PHOTO = encoded(picture(170, 120))
FILM = film(20)
DETAIL_TILES = {content_pb2.DETAIL_LOW: 6, content_pb2.DETAIL_MEDIUM: 12, content_pb2.DETAIL_HIGH: 24}


def embeddings(answer: Encoded) -> np.ndarray:
    return np.stack([from_proto(tile.embeddings, "tile") for tile in answer.tiles])


def test_layout_then_tiles_in_order_then_summary(vision: Stub) -> None:
    answer = encode(vision, image(), PHOTO)
    layout = answer.layout
    assert layout.kind == content_pb2.MEDIA_KIND_IMAGE
    assert [(grid.columns, grid.rows, grid.thumbnail) for grid in layout.grids] == [(3, 2, True)]
    assert (layout.tiles, layout.tokens_per_tile, layout.hidden_size) == (7, TOKENS_PER_TILE, HIDDEN_SIZE)
    assert layout.dtype == tensor_pb2.DATA_TYPE_BFLOAT16
    assert len(layout.visual_id) == 64
    assert [tile.index for tile in answer.tiles] == list(range(7))
    assert {tile.visual_id for tile in answer.tiles} == {layout.visual_id}
    assert embeddings(answer).shape == (7, TOKENS_PER_TILE, HIDDEN_SIZE)
    assert embeddings(answer).dtype == ml_dtypes.bfloat16
    assert answer.summary.tiles == 7
    assert answer.summary.decode_ms > 0
    assert answer.summary.encode_ms > 0


def test_embeddings_are_those_of_the_model(vision: Stub, vision_checkpoint: Path) -> None:
    answer = encode(vision, Open(image=content_pb2.ImageOptions(), dtype=tensor_pb2.DATA_TYPE_FLOAT32), PHOTO)
    tiling = TilingOptions(1, 12, True, TILE_SIDE)
    tiles = decode_media(PHOTO, ImageOptions(tiling), MediaLimits()).tiles
    model = open_model(small_config(vision_checkpoint).model).load_encoder("cpu", None)
    np.testing.assert_allclose(embeddings(answer), model.encode(normalise(tiles)), rtol=1e-4, atol=1e-5)


def test_bfloat16_is_float32_rounded_to_nearest_even(vision: Stub) -> None:
    options = content_pb2.ImageOptions()
    exact = embeddings(encode(vision, Open(image=options, dtype=tensor_pb2.DATA_TYPE_FLOAT32), PHOTO))
    rounded = embeddings(encode(vision, Open(image=options, dtype=tensor_pb2.DATA_TYPE_BFLOAT16), PHOTO))
    bits = exact.view(np.uint32)
    upper = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    assert np.array_equal(rounded.view(np.uint16), upper.astype(np.uint16))
    assert np.array_equal(rounded, embeddings(encode(vision, image(), PHOTO)))


def test_a_tile_frame_is_a_generate_request_as_it_is(vision_channel: grpc.Channel) -> None:
    """What the gateway does: frames pass through as bytes."""
    call = vision_channel.stream_stream(
        "/internvl.v1.VisionService/Encode",
        request_serializer=vision_service_pb2.EncodeRequest.SerializeToString,
        response_deserializer=None,
    )
    frames = list(call(requests(image(max_tiles=4), PHOTO), timeout=60))
    assert len(frames) > 3
    for frame in frames[1:-1]:
        sent = vision_service_pb2.EncodeResponse.FromString(frame)
        received = llm_service_pb2.GenerateRequest.FromString(frame)
        assert received.WhichOneof("message") == "tile"
        assert received.tile == sent.tile
        assert received.SerializeToString() == frame


@pytest.mark.parametrize("first_tile", [1, 5, 6])
def test_earlier_tiles_are_left_out(vision: Stub, first_tile: int) -> None:
    whole = encode(vision, image(), PHOTO)
    rest = encode(vision, Open(image=content_pb2.ImageOptions(), first_tile=first_tile), PHOTO)
    assert rest.layout == whole.layout
    assert [tile.index for tile in rest.tiles] == list(range(first_tile, 7))
    assert rest.summary.tiles == 7 - first_tile
    wanted = embeddings(whole)[first_tile:].astype(np.float32)
    np.testing.assert_allclose(embeddings(rest).astype(np.float32), wanted, rtol=0.02, atol=1e-3)


def test_films_are_sampled_and_tiled(vision: Stub) -> None:
    answer = encode(vision, video(frames=5, tiles_per_frame=2), FILM)
    assert answer.layout.kind == content_pb2.MEDIA_KIND_VIDEO
    assert len(answer.layout.grids) == 5
    assert answer.layout.tiles == sum(
        grid.columns * grid.rows + grid.thumbnail for grid in answer.layout.grids
    )
    assert len(answer.tiles) == answer.layout.tiles
    assert encode(vision, video(), FILM).layout.tiles == 8


@pytest.mark.parametrize("asked", [image(), image(max_tiles=2), video(), video(frames=3, end_s=0.5)])
def test_a_layout_tells_how_to_make_it_again(vision: Stub, asked: Open) -> None:
    data = PHOTO if asked.HasField("image") else FILM
    layout = encode(vision, asked, data).layout
    assert layout.WhichOneof("options") == f"{asked.WhichOneof('options')}_options"
    again = Open(image=layout.image_options) if asked.HasField("image") else Open(video=layout.video_options)
    assert encode(vision, again, data).layout == layout


def test_visual_id_names_content_options_and_dtype(vision: Stub) -> None:
    def name(open_message: Open, data: bytes = PHOTO) -> str:
        return encode(vision, open_message, data).layout.visual_id

    plain = name(image())
    assert name(image()) == plain
    assert name(image(min_tiles=1, max_tiles=12, thumbnail=True)) == plain
    assert name(Open(image=content_pb2.ImageOptions(), first_tile=3)) == plain
    others = [
        name(image(), encoded(picture(170, 120, seed=1))),
        name(image(max_tiles=6)),
        name(image(thumbnail=False)),
        name(Open(image=content_pb2.ImageOptions(), dtype=tensor_pb2.DATA_TYPE_FLOAT32)),
        name(video(), FILM),
        name(video(start_s=0.5), FILM),
        name(video(end_s=1.5), FILM),
        name(video(frames=9), FILM),
    ]
    assert len({plain, *others}) == 1 + len(others)


@st.composite
def image_options(draw: st.DrawFn) -> content_pb2.ImageOptions:
    """Any options this service takes, each said or not."""
    options = content_pb2.ImageOptions()
    if draw(st.booleans()):
        options.thumbnail = draw(st.booleans())
    if draw(st.booleans()):
        options.detail = draw(st.sampled_from(list(DETAIL_TILES)))
    elif draw(st.booleans()):
        options.max_tiles = draw(st.integers(1, 20))
    if draw(st.booleans()):
        options.min_tiles = draw(st.integers(1, DETAIL_TILES.get(options.detail, options.max_tiles or 12)))
    return options


def layout_of(answer: Encoded) -> content_pb2.VisualLayout:
    """As `Plan` gives it, which never sees the content."""
    layout = content_pb2.VisualLayout()
    layout.CopyFrom(answer.layout)
    layout.ClearField("visual_id")
    return layout


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.integers(3, 400), st.integers(3, 400), image_options())
def test_plan_is_what_encode_does(
    vision: Stub, width: int, height: int, options: content_pb2.ImageOptions
) -> None:
    item = vision_service_pb2.PlanItem(width=width, height=height, image=options)
    plan = vision.Plan(vision_service_pb2.PlanRequest(items=[item]), timeout=10)
    answer = encode(vision, Open(image=options), encoded(picture(width, height), "BMP"))
    assert plan.layouts[0] == layout_of(answer)
    assert plan.visual_tokens == len(answer.tiles) * TOKENS_PER_TILE
    assert not plan.reduced


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.integers(3, 300), st.integers(3, 300), image_options()), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(0, 60),
)
def test_a_budget_is_kept_by_encoding_as_planned(
    vision: Stub, photos: list[tuple[int, int, content_pb2.ImageOptions]], per_frame: int, spare: int
) -> None:
    """Every layout of a plan within a budget is exactly what its own options make."""
    items = [vision_service_pb2.PlanItem(width=w, height=h, image=options) for w, h, options in photos]
    clip = content_pb2.VideoOptions(frames=3, tiles_per_frame=per_frame)
    items.append(vision_service_pb2.PlanItem(width=64, height=48, video=clip))
    free = vision.Plan(vision_service_pb2.PlanRequest(items=items), timeout=10)
    budget = len(items) + spare
    request = vision_service_pb2.PlanRequest(items=items, tile_budget=budget)
    plan = vision.Plan(request, timeout=10)
    assert vision.Plan(request, timeout=10) == plan
    assert sum(layout.tiles for layout in plan.layouts) <= budget
    assert plan.reduced == (sum(layout.tiles for layout in free.layouts) > budget)
    if not plan.reduced:
        assert plan == free
    for (width, height, _), layout in zip(photos, plan.layouts, strict=False):
        data = encoded(picture(width, height), "BMP")
        assert layout_of(encode(vision, Open(image=layout.image_options), data)) == layout
    film_layout = plan.layouts[-1]
    assert layout_of(encode(vision, Open(video=film_layout.video_options), FILM)) == film_layout


def test_detail_is_short_for_a_number_of_tiles(vision: Stub) -> None:
    for detail, tiles in DETAIL_TILES.items():
        short = encode(vision, image(detail=detail), PHOTO).layout
        assert short == encode(vision, image(max_tiles=tiles), PHOTO).layout
        assert short.image_options.max_tiles == tiles
        assert not short.image_options.detail
    unsaid = encode(vision, image(detail=content_pb2.DETAIL_UNSPECIFIED), PHOTO).layout
    assert unsaid == encode(vision, image(), PHOTO).layout


def test_plan_of_films_and_of_many_items(vision: Stub) -> None:
    options = content_pb2.VideoOptions(frames=3, tiles_per_frame=4)
    films = vision_service_pb2.PlanItem(width=64, height=48, video=options)
    photo = vision_service_pb2.PlanItem(width=170, height=120, image=content_pb2.ImageOptions())
    plan = vision.Plan(vision_service_pb2.PlanRequest(items=[films, photo]), timeout=10)
    answer = encode(vision, Open(video=options), FILM)
    answer.layout.ClearField("visual_id")
    assert plan.layouts[0] == answer.layout
    assert plan.visual_tokens == (answer.layout.tiles + 7) * TOKENS_PER_TILE


def test_inspect_tells_what_plan_needs(vision: Stub) -> None:
    def inspect(data: bytes) -> vision_service_pb2.InspectResponse:
        chunks = (data[start : start + 999] for start in range(0, len(data), 999))
        return vision.Inspect(
            (vision_service_pb2.InspectRequest(chunk=chunk) for chunk in chunks), timeout=30
        )

    photo = inspect(PHOTO)
    assert (photo.kind, photo.width, photo.height) == (content_pb2.MEDIA_KIND_IMAGE, 170, 120)
    assert (photo.media_type, photo.frame_count, photo.duration_s) == ("image/png", 1, 0)
    clip = inspect(FILM)
    assert (clip.kind, clip.width, clip.height) == (content_pb2.MEDIA_KIND_VIDEO, 64, 48)
    assert (clip.media_type, clip.frame_count, clip.duration_s) == ("video/mp4", 20, pytest.approx(2.0))
    assert refusal(lambda: inspect(b"")).message == "chunk: the file is empty"
    assert refusal(lambda: inspect(PHOTO[:20])).message == "chunk: the picture is damaged or cut short"


def test_encoder_info(vision: Stub) -> None:
    info = vision.EncoderInfo(vision_service_pb2.EncoderInfoRequest(), timeout=10)
    assert info.model_name == "small"
    assert len(info.weights_fingerprint) == 64
    assert info.preprocessing_version
    assert (info.tile_size, info.tokens_per_tile, info.hidden_size) == (
        TILE_SIDE,
        TOKENS_PER_TILE,
        HIDDEN_SIZE,
    )
    assert (info.default_max_tiles, info.max_tiles_limit, info.max_frames_limit) == (12, 40, 128)
    assert info.max_media_bytes == MAX_BYTES
