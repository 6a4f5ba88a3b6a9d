"""The process: environment, log levels, network access, system faults, death of the parent."""
