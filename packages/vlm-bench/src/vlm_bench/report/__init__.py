"""Scores as tables, pages and comparisons."""
