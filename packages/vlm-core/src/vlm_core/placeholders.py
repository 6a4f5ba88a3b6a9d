"""Text that stands for something else in rows and prompts."""

IMAGE_PLACEHOLDER = "<image>"
"""What marks an image in the text of dataset rows, logged prompts and messages of other libraries."""
