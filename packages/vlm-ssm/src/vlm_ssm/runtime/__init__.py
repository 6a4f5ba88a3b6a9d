"""Errors, kernel cache, and the state of backends on this machine."""
