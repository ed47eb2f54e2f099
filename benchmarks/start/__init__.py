"""How long the full model takes to be ready, and what memory it takes."""
