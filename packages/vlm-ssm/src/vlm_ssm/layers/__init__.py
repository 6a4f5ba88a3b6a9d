"""Mamba-1 layers and their fused decoding step."""
