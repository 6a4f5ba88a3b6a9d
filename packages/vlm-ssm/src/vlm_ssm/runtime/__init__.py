"""Errors, and cache folders of compiled kernels."""
