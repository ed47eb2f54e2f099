"""What outlives a turn: conversations, claims on turns, and media."""
