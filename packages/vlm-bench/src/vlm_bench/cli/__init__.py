"""The commands of `vlm-bench`."""
