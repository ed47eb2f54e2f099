"""Downloading released checkpoints: what there is, fetching it with resume, and checking it.

Two sources say what there is; one downloader fetches from either. Hugging Face is asked through its own
library (tokens, mirrors, gated repositories); the bytes come over plain HTTPS, because that library checks
sizes only and the Paddle bucket needs a resuming downloader anyway.
"""
