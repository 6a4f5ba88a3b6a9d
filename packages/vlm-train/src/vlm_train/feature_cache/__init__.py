"""Features of a frozen encoder, computed once and kept: `store` on disk, `identity` of what they are, `fill`."""
