"""The flags of the media store."""

from __future__ import annotations

import argparse

from gateway.flag_types import positive
from gateway.storage.media_store import MIB, MediaConfig
from internvl.errors import ConfigError


def add_media_flags(group: argparse._ArgumentGroup) -> None:
    """Declare the flags."""
    add = group.add_argument
    add(
        "--media-dir",
        metavar="DIR|URL",
        help="where media is kept: a directory, or s3://BUCKET/PREFIX and whatever else fsspec knows; unset: "
        "forgotten at the end",
    )
    add("--max-media-mib", type=positive, default=64, metavar="MIB", help="largest file")
    add("--min-media-bytes", type=positive, default=1, metavar="N", help="smallest file")
    add(
        "--media-quota-mib",
        type=positive,
        default=4096,
        metavar="MIB",
        help="all files together; the least recently used that no conversation shows are dropped",
    )
    add(
        "--tenant-media-quota-mib",
        type=positive,
        metavar="MIB",
        help="likewise for the files of each tenant (no bound of its own)",
    )
    add(
        "--media-ttl-seconds",
        type=positive,
        metavar="S",
        help="how long a file is kept that nobody uses and no conversation shows (for ever)",
    )
    add(
        "--upload-idle-seconds",
        type=positive,
        default=30,
        metavar="S",
        help="longest wait for the next bytes of an upload",
    )


def media_from_args(args: argparse.Namespace) -> MediaConfig:
    """What the flags say about media.

    Raises:
        ConfigError: values that contradict each other; names the flag.
    """
    for flag in ("--media-quota-mib", "--tenant-media-quota-mib"):
        quota = getattr(args, flag[2:].replace("-", "_"))
        if quota is not None and quota < args.max_media_mib:
            raise ConfigError(f"{flag}: must be at least --max-media-mib")
    if args.min_media_bytes > args.max_media_mib * MIB:
        raise ConfigError("--min-media-bytes: must be at most --max-media-mib")
    own = args.tenant_media_quota_mib
    return MediaConfig(
        directory=args.media_dir,
        max_file_bytes=args.max_media_mib * MIB,
        quota_bytes=args.media_quota_mib * MIB,
        min_file_bytes=args.min_media_bytes,
        tenant_quota_bytes=None if own is None else own * MIB,
        time_to_live_s=args.media_ttl_seconds,
        idle_s=args.upload_idle_seconds,
    )
