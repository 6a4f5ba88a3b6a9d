"""Hostile inputs of four kinds, made from valid ones, and what reading them may do."""
