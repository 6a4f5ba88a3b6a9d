"""Model folders for transformers, with or without the code that the model needs."""
