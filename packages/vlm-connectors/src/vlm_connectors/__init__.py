"""Connectors: the multimodal connectors of VL-Mamba with their 2D scans, and those of related models."""
