"""How `models/nano` is made: drawings, questions, tokenizer, model, training, export.

Read in this order: `drawing`, `phrases`, `scene_parts`, the scenes, `tasks`, `tokens`, `tiles`, `batches`,
`network`, `schedule`, `worker`, `train`, `export`, `evaluate`. `heldout` yields the held-out cases and
imports no Paddle.
"""
