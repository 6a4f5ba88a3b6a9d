"""Norms of sums on CUDA kernels: RMSNorm of the residual, LayerNorm of two inputs."""
