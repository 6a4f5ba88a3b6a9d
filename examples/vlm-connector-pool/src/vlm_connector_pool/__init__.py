"""A third-party connector for vlm-core: average pooling, then Linear, GELU, Linear."""
