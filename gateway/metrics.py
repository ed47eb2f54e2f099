"""What the gateway counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

TILES_FORWARDED = Counter("internvl_gateway_tiles_forwarded", "Tiles moved from vision to language.")
TILE_BYTES_FORWARDED = Counter("internvl_gateway_tile_bytes_forwarded", "Bytes of those tiles.")
LAYOUT_LOOKUPS = Counter(
    "internvl_gateway_layout_lookups", "Visuals of prompts, by whether their layout was known.", ["known"]
)
TURNS = Gauge("internvl_gateway_turns", "Turns under way.")
LIVE_TURNS = Gauge("internvl_gateway_live_turns", "Turns under way that need no client.")
LIVE_TURN_BYTES = Gauge("internvl_gateway_live_turn_bytes", "Bytes of events kept for reading on.")
FIRST_TEXT_SECONDS = Histogram(
    "internvl_gateway_first_text_seconds",
    "From the arrival of a turn to its first text, in seconds.",
    buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100),
)
MEDIA_BYTES = Gauge("internvl_gateway_media_bytes", "Bytes held in the media store.")
MEDIA_DROPPED = Counter("internvl_gateway_media_dropped", "Files dropped to stay below the quota.")
REPLICAS = Gauge("internvl_gateway_replicas", "Replicas of a tier, by their health.", ["tier", "health"])
ROUTED = Counter(
    "internvl_gateway_routed",
    "Calls to a tier, by whether they went to the first replica of their key.",
    ["tier", "replica"],
)
RETRIES = Counter(
    "internvl_gateway_retries",
    "Lost calls of turns, by whether they were made again.",
    ["made"],
)
RESUMED = Counter("internvl_gateway_resumed", "Answers that went on on another replica, in their middle.")
