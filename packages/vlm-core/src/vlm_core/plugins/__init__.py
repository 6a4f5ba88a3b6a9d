"""Plugins: hooks, base classes of component configs, the registry, hub components and scaffolds."""

API = 1
"""Number of the plugin API. It rises when a plugin must change: a hook, a base class or a contract of a component."""
