"""Placeholders in the text of rows and prompts."""

IMAGE_PLACEHOLDER = "<image>"
"""Placeholder of an image in dataset rows, logged prompts and messages of other libraries."""
VIDEO_PLACEHOLDER = "<video>"
"""As `IMAGE_PLACEHOLDER`, of a video."""
