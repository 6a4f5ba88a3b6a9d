"""Continuous batching: who waits, who is read, and who is decoded together."""
