"""Low-precision matrix products, transformer layers and frozen modules."""
