"""Scores of the benchmarks that vision-language papers report, by their published rules.

Readers turn files into plain data, scorers are pure functions on that data; neither needs torch. `run` asks a model.
"""
