"""Checkpoints and the run folder: written whole, verified when read, resumed exactly."""
