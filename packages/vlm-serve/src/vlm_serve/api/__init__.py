"""The OpenAI-compatible interface over HTTP."""
