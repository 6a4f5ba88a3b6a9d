"""The `train` section of a spec."""
