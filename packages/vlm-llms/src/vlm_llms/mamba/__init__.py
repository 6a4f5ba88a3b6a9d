"""Mamba-1 language models: config, model, published checkpoints, decoding as a CUDA graph."""
