"""Export of model folders for transformers, with or without the model's code."""
