"""Inference on benchmarks: selecting questions, generating answers, scoring."""
