"""Scores of the benchmarks that vision-language papers report, by their published rules.

`files` reads files into plain data, `scoring` and `benchmarks` score that data without torch, `run` asks a model.
"""
