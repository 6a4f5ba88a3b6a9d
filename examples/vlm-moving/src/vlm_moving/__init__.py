"""Clips of moving shapes, and questions that one frame does not answer."""
