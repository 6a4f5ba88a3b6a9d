"""Untrusted files: bounded reading, atomic writing, manifests, images, JSON and YAML."""
