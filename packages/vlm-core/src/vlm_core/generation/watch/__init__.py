"""Watching: frames are appended to a state as they come, and questions are answered from forks of it."""
