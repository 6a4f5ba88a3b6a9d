"""Continuous batching: requests, slots of states, and the worker processes that own a model."""
