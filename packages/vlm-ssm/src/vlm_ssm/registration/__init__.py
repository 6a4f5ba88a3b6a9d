"""Shared code of the registered operations: scan, convolution, norm; their inputs, memory layouts, torch modes."""
