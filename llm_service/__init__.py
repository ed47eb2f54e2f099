"""The language tier: prompts and visual embeddings in, streamed text out."""
