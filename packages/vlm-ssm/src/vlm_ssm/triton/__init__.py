"""Backend `triton`: GPU kernels."""
