"""InternViT, pixel shuffle and projector: tiles in, visual tokens out."""

import kernels  # noqa: F401  (sets the environment before any file here imports paddle)
