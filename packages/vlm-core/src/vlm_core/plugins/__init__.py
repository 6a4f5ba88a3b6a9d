"""Plugins: hooks, base classes of component configs, the registry, hub components and scaffolds."""
