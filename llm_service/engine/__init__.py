"""The engine: schedule -> run -> sample -> publish. See docs/engine.md for the life of a request."""
