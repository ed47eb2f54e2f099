"""Turns: from a prompt to an answer, with or without a client who waits."""
