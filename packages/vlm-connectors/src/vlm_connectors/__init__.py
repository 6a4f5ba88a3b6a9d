"""Connectors: `mlp`, and the multimodal connectors of VL-Mamba with their 2D scans."""
