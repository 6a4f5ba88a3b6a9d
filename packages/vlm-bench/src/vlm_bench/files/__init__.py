"""Readers that several benchmarks share; every fault is a `UserError` with file and line."""
