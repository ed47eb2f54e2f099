"""The vision and language tiers as the gateway reaches them: replicas, routes, retries, calls."""
