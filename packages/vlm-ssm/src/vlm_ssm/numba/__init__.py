"""Backend `numba`: CPU kernels."""
