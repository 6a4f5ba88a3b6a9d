"""The spec: one YAML file, its base files, and its validation with line numbers."""
