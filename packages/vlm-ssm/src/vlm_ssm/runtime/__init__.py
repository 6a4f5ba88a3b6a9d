"""Errors, and folders of compiled kernels."""
