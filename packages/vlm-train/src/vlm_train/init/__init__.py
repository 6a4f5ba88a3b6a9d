"""`vlm-train init`: a new spec for the user's own data."""
