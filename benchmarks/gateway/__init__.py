"""What the gateway costs: added latency, bytes moved, memory."""
