"""Parquet files: footers, pages, cells and rows within limits."""
