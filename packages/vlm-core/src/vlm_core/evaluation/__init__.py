"""A benchmark's questions, and a model's answers to them."""
