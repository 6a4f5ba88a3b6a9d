"""SEED-Bench: the multiple-choice questions about images."""
