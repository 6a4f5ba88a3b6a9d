"""The chat page: files that `api` serves."""
