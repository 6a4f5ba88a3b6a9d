"""A small synthetic task about spatial relations."""
