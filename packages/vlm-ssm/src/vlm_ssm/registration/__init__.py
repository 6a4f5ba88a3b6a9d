"""Shared code of the registered operations: inputs, memory layouts, autograd, torch modes."""
