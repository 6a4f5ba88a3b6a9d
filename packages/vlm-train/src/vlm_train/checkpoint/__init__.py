"""Checkpoints and the run folder: written atomically, verified when read, resumed exactly."""
