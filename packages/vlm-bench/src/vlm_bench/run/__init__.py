"""Inference on benchmarks: asks a model, logs its answers, resumes a run, and grades answers by a judge."""
