"""The Phi-3 decoder and its KV cache: token ids and visual tokens in, logits out."""

import kernels  # noqa: F401  (sets the environment before any file here imports paddle)
