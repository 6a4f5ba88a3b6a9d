"""Sweeps: a grid of runs, their processes, and their table."""
