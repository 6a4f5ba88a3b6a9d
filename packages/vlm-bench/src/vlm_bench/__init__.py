"""The benchmarks that vision-language papers report, scored by their published rules.

`files` reads data files, `scoring` and `benchmarks` score answers without torch, `run` asks a model.
"""
