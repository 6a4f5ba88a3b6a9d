"""Evaluation during and after training: validation loss, held-out questions, benchmarks, controls."""
