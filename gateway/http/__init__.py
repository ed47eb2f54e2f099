"""The HTTP door: the OpenAI-compatible API in front of `Chats`. Imported only when it is on."""
