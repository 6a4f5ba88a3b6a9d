"""Scoring rules that several benchmarks share, as pure functions on plain data."""
