"""What the HTTP door counts."""

from __future__ import annotations

from prometheus_client import Counter, Histogram

REQUESTS = Counter("internvl_http_requests", "Finished requests by route and status.", ["route", "status"])
REQUEST_SECONDS = Histogram(
    "internvl_http_request_seconds",
    "Duration of requests in seconds, first byte to last.",
    ["route"],
    buckets=(0.005, 0.02, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
