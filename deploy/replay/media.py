"""Files to the embeddings that a replay bundle names, by a vision service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc

from deploy.launcher.config import VISION, LaunchConfig, plan_services
from deploy.launcher.stack import launch_services
from internvl.errors import ConfigError, InvalidField
from internvl.rpc import error_from_rpc
from internvl.v1 import content_pb2, vision_service_pb2, vision_service_pb2_grpc

_CHUNK_BYTES = 2**20
_MAX_MESSAGE_BYTES = 8 * 2**20
_TIMEOUT_S = 600.0

Tiles = Mapping[str, Sequence[content_pb2.Tile]]


@contextmanager
def local_vision(config: LaunchConfig) -> Iterator[str]:
    """A vision service on this machine while the block lasts; its address.

    Raises:
        LaunchError: it could not start.
    """
    service = next(service for service in plan_services(config) if service.name == VISION)
    with launch_services([service], config) as stack:
        yield stack.vision_address


def encode_media(target: str, files: Sequence[Path], layouts: Sequence[content_pb2.VisualLayout]) -> Tiles:
    """All tiles of each layout, from whichever of the files gives its `visual_id`.

    Raises:
        OSError: a file cannot be read.
        ConfigError: none of the files does.
        ServingError: the vision service failed.
    """
    contents = [file.read_bytes() for file in files]
    with grpc.insecure_channel(
        target, options=[("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES)]
    ) as channel:
        vision = vision_service_pb2_grpc.VisionServiceStub(channel)
        return {
            layout.visual_id: _tiles(vision, contents, layout, number)
            for number, layout in enumerate(layouts)
        }


def _tiles(
    vision: vision_service_pb2_grpc.VisionServiceStub,
    contents: Sequence[bytes],
    layout: content_pb2.VisualLayout,
    number: int,
) -> list[content_pb2.Tile]:
    for content in contents:
        tiles = _encode(vision, content, layout)
        if tiles is not None:
            return tiles
    kind = "film" if layout.kind == content_pb2.MEDIA_KIND_VIDEO else "picture"
    raise ConfigError(
        f"--media: no file gives the embeddings of {kind} {number + 1} of the prompt "
        f"({layout.tiles} tiles, visual_id {layout.visual_id[:16]}); another file, or another vision model"
    )


def _encode(
    vision: vision_service_pb2_grpc.VisionServiceStub, content: bytes, layout: content_pb2.VisualLayout
) -> list[content_pb2.Tile] | None:
    """The tiles of a file, or None if it is not the one that the layout is of."""
    call = vision.Encode(_requests(content, layout), timeout=_TIMEOUT_S)
    try:
        first = next(iter(call))
        if first.layout.visual_id != layout.visual_id:
            return None
        return [response.tile for response in call if response.HasField("tile")]
    except grpc.RpcError as error:
        failure = error_from_rpc(error, "vision service")
        if isinstance(failure, InvalidField):  # a film where the layout is a picture's, for example
            return None
        raise failure from error
    finally:
        call.cancel()


def _requests(content: bytes, layout: content_pb2.VisualLayout) -> Iterator[vision_service_pb2.EncodeRequest]:
    opening = vision_service_pb2.EncodeOpen(dtype=layout.dtype, size_bytes=len(content))
    if layout.kind == content_pb2.MEDIA_KIND_VIDEO:
        opening.video.CopyFrom(layout.video_options)
    else:
        opening.image.CopyFrom(layout.image_options)
    yield vision_service_pb2.EncodeRequest(open=opening)
    for start in range(0, len(content), _CHUNK_BYTES):
        yield vision_service_pb2.EncodeRequest(chunk=content[start : start + _CHUNK_BYTES])
