"""Text in, token ids out, and back: tokenizer, chat template, prompt and streamed answer. No tensors here."""
