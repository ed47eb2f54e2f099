"""Checks of what this repository ships, each a command: manifests, licences, the client alone."""
