"""Tokenizers: files, checks, and text to ids."""
