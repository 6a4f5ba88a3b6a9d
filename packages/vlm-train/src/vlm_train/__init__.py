"""Trains a vision-language model in stages, as one YAML spec says."""
