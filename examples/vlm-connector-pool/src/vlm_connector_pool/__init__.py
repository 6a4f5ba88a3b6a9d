"""The connector `pool` for vlm-core."""
