"""The vision tier: pictures and films in, visual embeddings out. `docs/vision.md` is its manual."""
