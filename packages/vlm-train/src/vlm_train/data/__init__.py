"""Data sets: formats, rows, order, tokenized samples and batches."""
