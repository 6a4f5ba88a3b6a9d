"""Throughput, messages, trackers and the environment of a run."""
