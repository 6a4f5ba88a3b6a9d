"""A small task in which places matter, made from a seed."""
