"""One token on CUDA kernels: products with a few vectors, the recurrence, dependent launches."""
