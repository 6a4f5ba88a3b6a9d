"""A model answers benchmarks; answers are kept, resumed and judged."""
