"""Serve a vision-language model: `engine` batches requests by state, `api` is the OpenAI-compatible interface.

`page` is the chat page, `cli` the command `vlm-serve`.
"""
