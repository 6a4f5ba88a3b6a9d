"""Causal language models of transformers behind the `LanguageModel` contract."""
