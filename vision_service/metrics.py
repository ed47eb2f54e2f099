"""What the vision tier counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)

OPEN_REQUESTS = Gauge("internvl_vision_open_requests", "Encode and Inspect calls in progress.")
QUEUED_TILES = Gauge("internvl_vision_queued_tiles", "Tiles of open requests that the encoder has not taken.")
ENCODED_TILES = Counter("internvl_vision_encoded_tiles", "Tiles encoded.")
ENCODER_BUSY_SECONDS = Counter("internvl_vision_encoder_busy_seconds", "Seconds the encoder computed.")
BATCH_TILES = Histogram(
    "internvl_vision_batch_tiles", "Tiles of one encoder batch.", buckets=(1, 2, 4, 8, 16, 32, 64)
)
DECODE_SECONDS = Histogram(
    "internvl_vision_decode_seconds", "Seconds to decode and tile a file.", ["kind"], buckets=_SECONDS
)
DECODE_OVERLAPPED_SECONDS = Counter(
    "internvl_vision_decode_overlapped_seconds", "Seconds of decoding during which the encoder computed."
)
DECODER_RESTARTS = Counter(
    "internvl_vision_decoder_restarts", "Decoder processes replaced, by cause.", ["cause"]
)
SENT_BYTES = Counter("internvl_vision_sent_bytes", "Bytes of embeddings sent.")
CACHE_LOOKUPS = Counter(
    "internvl_vision_cache_lookups",
    "Look-ups in the embedding cache: of whole items by visual_id, else of each tile by its pixels.",
    ["by", "result"],
)
CACHE_BYTES = Gauge("internvl_vision_cache_bytes", "Bytes of embeddings in memory, in use or kept.")
CACHE_EVICTED_TILES = Counter("internvl_vision_cache_evicted_tiles", "Kept tiles that made room for others.")
SLOW_READERS = Counter("internvl_vision_slow_readers", "Calls cut because the client did not read.")
