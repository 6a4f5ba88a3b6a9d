"""Mamba-1 layers, those of transformers included, and their fused decoding step."""
