"""Everything the vision service can be told, from flags and INTERNVL_VISION_* variables."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import configargparse

from internvl.model_choice import ModelChoice, add_model_flags
from internvl.rpc import ServerConfig, ServerHelpFormatter, add_server_flags, require_positive
from vision_service.decoding import DecodeConfig
from vision_service.encoder import EncoderConfig
from vision_service.limits import MediaLimits, RequestLimits

MIB = 2**20
DEFAULT_CACHE_BYTES = 512 * MIB

_EPILOG = "Every flag can also be set as INTERNVL_VISION_<FLAG>, for example INTERNVL_VISION_MAX_PIXELS."


@dataclass(frozen=True, slots=True)
class Config:
    """The whole service.

    Attributes:
        embedding_cache_bytes: embeddings to keep for the next who asks; 0 keeps none.
    """

    model: ModelChoice
    server: ServerConfig
    media: MediaLimits = field(default_factory=MediaLimits)
    requests: RequestLimits = field(default_factory=RequestLimits)
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    embedding_cache_bytes: int = DEFAULT_CACHE_BYTES


def parse_config(argv: Sequence[str] | None = None) -> Config:
    """Read flags, and the environment where no flag is given.

    Raises:
        ConfigError: a number below 1, or no model to serve.
    """
    args = _parser().parse_args(argv)
    require_positive(args, may_be_zero=("embedding_cache_mib",))
    return Config(
        model=ModelChoice.from_args(args),
        server=ServerConfig.from_args(args),
        media=MediaLimits(
            max_pixels=args.max_pixels,
            max_aspect_ratio=args.max_aspect_ratio,
            max_video_frames=args.max_video_frames,
            max_video_seconds=args.max_video_seconds,
            max_tiles=args.max_tiles_per_item,
        ),
        requests=RequestLimits(
            max_media_bytes=args.max_media_mib * MIB,
            max_grid_tiles=args.max_tiles,
            max_frames=args.max_frames,
            max_open_requests=args.max_open_requests,
            upload_timeout_s=args.upload_timeout_seconds,
            reader_timeout_s=args.reader_timeout_seconds,
        ),
        decode=DecodeConfig(args.decoders, args.decode_timeout_seconds, args.decode_memory_mib * MIB),
        encoder=EncoderConfig(args.batch_tiles, args.max_queued_tiles, args.tiles_ahead),
        embedding_cache_bytes=args.embedding_cache_mib * MIB,
    )


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = configargparse.ArgParser(
        prog="python -m vision_service",
        description="Serves the vision half of an InternVL2 model: pictures and films in, embeddings out.",
        epilog=_EPILOG,
        auto_env_var_prefix="INTERNVL_VISION_",
        add_env_var_help=False,
        formatter_class=ServerHelpFormatter,
    )
    add_model_flags(parser)
    _add_limit_flags(parser)
    _add_compute_flags(parser)
    add_server_flags(parser, default_listen="127.0.0.1:50051")
    return parser


def _add_limit_flags(parser: argparse.ArgumentParser) -> None:
    media, requests = MediaLimits(), RequestLimits()
    group = parser.add_argument_group("limits of one request")

    def add(flag: str, default: float, unit: str, text: str) -> None:
        group.add_argument(flag, type=type(default), default=default, metavar=unit, help=text)

    add("--max-media-mib", requests.max_media_bytes // MIB, "MIB", "length of a file")
    add("--max-pixels", media.max_pixels, "N", "width times height of a picture or frame")
    add("--max-aspect-ratio", media.max_aspect_ratio, "X", "longer side over shorter side")
    add("--max-tiles", requests.max_grid_tiles, "N", "tiles a request may ask for in one grid")
    add("--max-tiles-per-item", media.max_tiles, "N", "tiles one picture or film may make in all")
    add("--max-frames", requests.max_frames, "N", "frames a request may sample")
    add("--max-video-frames", media.max_video_frames, "N", "frames of a film, sampled or not")
    add("--max-video-seconds", media.max_video_seconds, "S", "length of a film")
    add("--upload-timeout-seconds", requests.upload_timeout_s, "S", "time for a whole file to arrive")
    add("--reader-timeout-seconds", requests.reader_timeout_s, "S", "time to take one message of an answer")
    add("--max-open-requests", requests.max_open_requests, "N", "Encode and Inspect calls at once")


def _add_compute_flags(parser: argparse.ArgumentParser) -> None:
    encoder = EncoderConfig()
    group = parser.add_argument_group("work")
    group.add_argument(
        "--decoders", type=int, default=default_decoders(), metavar="N", help="processes that decode files"
    )
    group.add_argument(
        "--decode-timeout-seconds",
        type=float,
        default=DecodeConfig().timeout_s,
        metavar="S",
        help="longest time for decoding one file",
    )
    group.add_argument(
        "--decode-memory-mib",
        type=int,
        default=DecodeConfig().memory_bytes // MIB,
        metavar="MIB",
        help="most memory for decoding one file",
    )
    group.add_argument(
        "--batch-tiles", type=int, default=encoder.batch_tiles, metavar="N", help="most tiles of one batch"
    )
    group.add_argument(
        "--max-queued-tiles",
        type=int,
        default=encoder.max_queued_tiles,
        metavar="N",
        help="most decoded tiles waiting for the encoder",
    )
    group.add_argument(
        "--tiles-ahead",
        type=int,
        default=encoder.tiles_ahead,
        metavar="N",
        help="most tiles of one request encoded before its client reads them",
    )
    group.add_argument(
        "--embedding-cache-mib",
        type=int,
        default=DEFAULT_CACHE_BYTES // MIB,
        metavar="MIB",
        help="embeddings kept in memory for whoever asks again; 0 keeps none",
    )


def default_decoders() -> int:
    """One decoder for every two cores this process may use, at most four."""
    return max(1, min(4, len(os.sched_getaffinity(0)) // 2))
