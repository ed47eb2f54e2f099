"""The operators at the shapes of InternVL2-4B."""
