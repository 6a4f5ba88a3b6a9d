"""POPE: object hallucination, yes/no questions."""
