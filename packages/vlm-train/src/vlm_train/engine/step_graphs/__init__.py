"""Micro-batches of one GPU as CUDA graphs, padded to a few shapes."""
