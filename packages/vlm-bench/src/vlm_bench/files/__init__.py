"""Readers that several benchmarks share. An invalid file is a `UserError` with file and line."""
