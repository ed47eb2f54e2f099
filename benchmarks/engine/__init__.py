"""The language engine on the embedded model and this machine: `python -m benchmarks.engine --json FILE`."""
