"""How `models/nano` is made: drawings, questions, tokenizer, model, training, export.

Read in this order: `drawing`, `phrases`, `scenes`, `sequences`, `tokens`, `tiles`, `batches`, `network`,
`optimizer`, `schedule`, `train`, `export`, `evaluate`. `heldout` yields the held-out cases and imports no
Paddle.
"""
