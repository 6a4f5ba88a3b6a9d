"""The commands of `vlm-train`."""
