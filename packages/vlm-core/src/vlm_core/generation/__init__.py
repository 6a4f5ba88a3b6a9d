"""Decoding, and conversations over several turns."""
