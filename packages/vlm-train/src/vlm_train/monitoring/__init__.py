"""Throughput, progress, trackers and the environment of a run."""
