"""Placeholders in the text of rows and prompts."""

IMAGE_PLACEHOLDER = "<image>"
"""Placeholder of an image in dataset rows, logged prompts and messages of other libraries."""
