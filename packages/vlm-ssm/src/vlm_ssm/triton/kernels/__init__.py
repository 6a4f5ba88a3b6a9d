"""Triton kernels: compiled for the GPU at first use, by Triton itself."""
