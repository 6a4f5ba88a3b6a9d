"""Language models: Mamba-1 with its published checkpoints, and any transformers causal LM."""
